import pytest
import torch

from apa_mmdet.models.activations import AGLU, build_activation


@pytest.mark.parametrize(
    'arguments, line',
    [
        (
            dict(lambda_init=(0.9, 0.1)),
            r'AGLU: lambda_init must be \(lowest, highest\), got the reversed range \(0.9, 0.1\)',
        ),
        (dict(kappa_init=(2.0, 1.0)), r'AGLU: kappa_init must be .* reversed range \(2.0, 1.0\)'),
        (dict(lambda_init=(-0.5, 0.5)), r'AGLU: lambda_init .* below the floor of λ, 0.0001'),
        (dict(lambda_init=(0.0, 1e-6)), r'AGLU: lambda_init .* below the floor of λ, 0.0001'),
        (dict(num_features=0), 'AGLU: num_features must be at least 1, got 0'),
        (dict(num_features=None), 'stands for the channel count of the site'),
    ],
)
def test_bad_arguments_get_one_clear_line(arguments, line):
    with pytest.raises(ValueError, match=line):
        AGLU(**arguments)


def test_wrong_channel_count_at_the_first_input():
    with pytest.raises(ValueError, match=r'lambda_ holds \(4,\) values, .* has 6 channels'):
        AGLU(num_features=4)(torch.zeros(1, 6, 2, 2))


def test_build_hands_on_the_channel_count_only_where_it_is_asked_for():
    assert build_activation(dict(type='AGLU'), 7).num_features == 1
    assert build_activation(dict(type='AGLU', num_features=None), 7).num_features == 7
    assert build_activation(dict(type='AGLU', num_features=3), 7).num_features == 3
    assert build_activation(dict(type='ReLU'), 7).inplace
    assert isinstance(build_activation(dict(type='Sigmoid'), 7), torch.nn.Sigmoid)
    recipe = dict(type='AGLU', num_features=None)
    assert build_activation(recipe, 7) is not build_activation(recipe, 7) and recipe['num_features'] is None


def test_build_names_what_is_not_registered():
    with pytest.raises(KeyError, match="activation 'AGLUU' is not registered"):
        build_activation(dict(type='AGLUU'), 7)

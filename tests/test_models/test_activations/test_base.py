import re

import pytest
import torch
from helpers.paths import ROOT

from apa_mmdet.models.activations import AGLU, build_activation, learnable_activations


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
        (dict(num_features=None), 'takes the channel count of its slot'),
    ],
)
def test_bad_arguments_are_refused(arguments, line):
    with pytest.raises(ValueError, match=line):
        AGLU(**arguments)


def test_an_input_with_other_channels_is_refused():
    with pytest.raises(ValueError, match=r'lambda_ has shape \(4,\), .* has 6 channels'):
        AGLU(num_features=4)(torch.zeros(1, 6, 2, 2))


def test_build_passes_the_channel_count_only_where_the_config_asks_for_it():
    assert build_activation(dict(type='AGLU'), 7).num_features == 1
    assert build_activation(dict(type='AGLU', num_features=None), 7).num_features == 7
    assert build_activation(dict(type='AGLU', num_features=3), 7).num_features == 3
    assert build_activation(dict(type='ReLU'), 7).inplace
    assert isinstance(build_activation(dict(type='Sigmoid'), 7), torch.nn.Sigmoid)
    cfg = dict(type='AGLU', num_features=None)
    assert build_activation(cfg, 7) is not build_activation(cfg, 7) and cfg['num_features'] is None


def test_the_docs_list_every_learnable_activation():
    table = re.findall(r'^\| `(\w+)` \|', (ROOT / 'docs/activations.md').read_text(), re.M)
    ours = {name for name, cls in learnable_activations().items() if cls.__module__.startswith('apa_mmdet.')}
    assert set(table) >= ours and len(table) == len(set(table))


def test_build_refuses_an_unregistered_type():
    with pytest.raises(KeyError, match="activation 'AGLUU' is not registered"):
        build_activation(dict(type='AGLUU'), 7)

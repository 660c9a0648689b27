import pytest
import torch

from apa_mmdet.models.activations import AGLU
from apa_mmdet.ops import reference


def test_default_ranges():
    act = AGLU(num_features=20000)
    assert 1e-4 <= act.lambda_.min() < 1e-3 and 0.999 < act.lambda_.max() <= 1
    assert 1.0 <= act.kappa.min() < 1.0 + 1e-3 and 1.3 - 1e-3 < act.kappa.max() <= 1.3


@pytest.mark.parametrize('num_features', [1, 5])
def test_is_the_formula_of_its_parameters(num_features):
    act = AGLU(num_features, lambda_init=(0.2, 0.3), kappa_init=(-2.0, -1.0)).double()
    assert act.lambda_.shape == act.kappa.shape == (num_features,)
    assert (act.lambda_ >= 0.2).all() and (act.lambda_ <= 0.3).all() and (act.kappa <= -1).all()
    z = torch.randn(3, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(act(z), reference.aglu(z, act.lambda_[:, None], act.kappa[:, None]))

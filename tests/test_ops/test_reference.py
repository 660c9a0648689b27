"""The reference formulas, where float64 keeps their digits, against 60-digit values and closed forms."""

import math

import numpy as np
import pytest
import torch
from helpers.recordings import load

from apa_mmdet.ops import reference


@pytest.mark.parametrize('name', ['apa', 'aglu'])
def test_agrees_with_the_moderate_rows_of_60_digit_values(name):
    truth = load('apa_truth.npz')
    rows = {column: truth['rows'][:, i] for i, column in enumerate(truth['columns'])}
    moderate = (rows['lam'] >= 0.01) & (np.abs(rows['kappa'] * rows['z']) <= 3)
    assert moderate.sum() > 300
    z, lambda_, kappa = (torch.tensor(rows[c][moderate], requires_grad=True) for c in ('z', 'lam', 'kappa'))
    out = getattr(reference, name)(z, lambda_, kappa)
    grads = torch.autograd.grad(out.sum(), (z, lambda_, kappa))
    for column, got in zip((name, f'd{name}_dz', f'd{name}_dlam', f'd{name}_dkappa'), (out, *grads)):
        np.testing.assert_allclose(got.detach().numpy(), rows[column][moderate], rtol=1e-9, atol=1e-9)


def test_agrees_with_closed_forms():
    z, lambda_, kappa = (torch.tensor(v, dtype=torch.float64) for v in (2.0, 0.5, 1.0))
    p = (1 + 0.5 * math.exp(-2)) ** -2
    assert reference.apa(z, lambda_, kappa).item() == pytest.approx(p, rel=1e-14)
    assert reference.aglu(z, lambda_, kappa).item() == pytest.approx(2 * p, rel=1e-14)
    assert reference.neg_log_apa(z, lambda_, kappa).item() == pytest.approx(-math.log(p), rel=1e-14)

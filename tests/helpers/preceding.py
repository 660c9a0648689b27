"""What precedes an activation in a network, with its tensors by name: norms, a gate and a residual."""

import pytest
import torch

from apa_mmdet.ops import Norm, dispatch, reference
from apa_mmdet.ops.backends import cpu_extension

from .gradients import spread

PARTS = 'mean', 'var', 'weight', 'bias'
EPS, RESIDUAL_EPS = 0.02, 0.3  # large, so that a norm that forgets or swaps them differs
NORM, RESIDUAL_NORM = PARTS, tuple(f'residual_{part}' for part in PARTS)
# every kind of argument by itself, what a network has, and all at once
BEFORE = {
    'nothing': (),
    'weight': ('weight',),
    'bias': ('bias',),
    'statistics': ('mean', 'var'),
    'norm': NORM,
    'gate': ('gate',),
    'norm gate': (*NORM, 'gate'),
    'bias gate': ('bias', 'gate'),
    'residual': ('residual',),
    'norm residual': (*NORM, 'residual'),
    'norm gate residual': (*NORM, 'gate', 'residual'),
    'residual weight': ('residual', 'residual_weight'),
    'residual bias': ('residual', 'residual_bias'),
    'residual statistics': ('residual', 'residual_mean', 'residual_var'),
    'residual norm': ('residual', *RESIDUAL_NORM),
    'norm residual norm': (*NORM, 'residual', *RESIDUAL_NORM),
    'all': (*NORM, 'gate', 'residual', *RESIDUAL_NORM),
}


def draw(names, x):
    """Draws tensors for the input x, two dictionaries: those with a gradient, and statistics, which have none."""
    shapes = dict(residual=x.shape, gate=x.shape[:2])
    drawn = {name: torch.randn(shapes.get(name, x.shape[1:2]), dtype=x.dtype) for name in names}
    statistics = {name: drawn.pop(name) for name in names if name.endswith(('mean', 'var'))}
    return drawn, {name: t.abs() + 0.1 if name.endswith('var') else t for name, t in statistics.items()}


def with_norms(function, statistics):
    """Returns ``function`` of :mod:`apa_mmdet.ops` as a function of tensors by name."""

    def call(x, lambda_, kappa, gate=None, residual=None, **tensors):
        tensors = {**statistics, **tensors}
        norms = [
            Norm(*[tensors.get(prefix + part) for part in PARTS], eps)
            if any(prefix + part in tensors for part in PARTS)
            else None
            for prefix, eps in (('', EPS), ('residual_', RESIDUAL_EPS))
        ]
        given = dict(norm=norms[0], gate=gate, residual=residual, residual_norm=norms[1])
        return function(x, lambda_, kappa, **{key: value for key, value in given.items() if value is not None})

    return call


def formula_of(name, statistics=None):
    """Returns the formula of the reference, after what precedes the activation, of tensors that broadcast."""

    def normed(x, tensors, prefix, eps):
        if prefix + 'var' in tensors:
            x = (x - tensors[prefix + 'mean']) / (tensors[prefix + 'var'] + eps).sqrt()
        return x * tensors.get(prefix + 'weight', 1) + tensors.get(prefix + 'bias', 0)

    def formula(x, lambda_, kappa, gate=None, residual=None, **tensors):
        tensors.update((key, spread(t.double(), x)) for key, t in (statistics or {}).items())
        z = normed(x, tensors, '', EPS)
        z = z if gate is None else z * gate
        if residual is not None:
            z = z + normed(residual, tensors, 'residual_', RESIDUAL_EPS)
        return getattr(reference, name)(z, lambda_, kappa)

    return formula


def without_extension(monkeypatch):
    """Makes a CPU compute through Python, as on a machine where the extension has not been built."""
    monkeypatch.setattr(dispatch, 'extension', lambda: None)


def require_extension():
    if not cpu_extension.is_supported():
        pytest.skip('the extension needs torch 2.2')
    assert dispatch.extension() is not None, 'not built: run python -m apa_mmdet.ops.backends'

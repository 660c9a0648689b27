"""CARAFE against its definition in nested loops."""

import numpy as np
import pytest
import torch
from helpers.torch_features import needs_half_on_cpu
from torch.autograd import gradcheck

from apa_mmdet.ops import carafe as module
from apa_mmdet.ops.carafe import carafe, carafe_by_shifts

SHAPES = [  # N, C, H, W, k, G, s
    (2, 4, 3, 5, 3, 2, 2),
    (1, 3, 4, 4, 5, 1, 2),
    (2, 6, 1, 1, 5, 3, 3),
    (1, 2, 2, 7, 3, 1, 1),
    (1, 4, 5, 3, 1, 4, 2),
    (1, 2, 7, 1, 7, 2, 2),
]


def random_input(n, channels, height, width, k, groups, s, dtype=torch.float64):
    features = torch.randn(n, channels, height, width, dtype=dtype)
    masks = torch.randn(n, groups * k * k, height * s, width * s, dtype=dtype)
    return features.requires_grad_(), masks.requires_grad_()


def naive(features, masks, k, groups, s):
    """The definition, one output value after the other."""
    features, masks = features.detach().numpy(), masks.detach().numpy()
    n, channels, height, width = features.shape
    out = np.zeros((n, channels, height * s, width * s))
    for m, c, y, x in np.ndindex(*out.shape):
        group = c // (channels // groups)
        for i, j in np.ndindex(k, k):
            row, column = y // s + i - k // 2, x // s + j - k // 2
            if 0 <= row < height and 0 <= column < width:
                out[m, c, y, x] += masks[m, (group * k + i) * k + j, y, x] * features[m, c, row, column]
    return torch.from_numpy(out)


@pytest.mark.parametrize('tile', [module.TILE_COLUMNS, 2], ids=['one tile', 'tiles of 2'])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_values_and_gradients_match_the_definition(shape, tile, monkeypatch):
    monkeypatch.setattr(module, 'TILE_COLUMNS', tile)
    features, masks = random_input(*shape)
    torch.testing.assert_close(carafe(features, masks, *shape[4:]), naive(features, masks, *shape[4:]))
    assert gradcheck(lambda f, m: carafe(f, m, *shape[4:]), (features, masks), fast_mode=True)


def test_maps_wider_than_a_tile():
    shape = (1, 2, 2, module.TILE_COLUMNS + 3, 3, 1, 2)
    features, masks = random_input(*shape)
    torch.testing.assert_close(carafe(features, masks, *shape[4:]), naive(features, masks, *shape[4:]))


def test_non_contiguous_inputs_give_the_same_gradients():
    features, masks = random_input(2, 4, 3, 5, 3, 2, 2)
    want = torch.autograd.grad(carafe(features, masks, 3, 2, 2).square().sum(), (features, masks))
    strided = [
        t.detach().permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2).requires_grad_() for t in (features, masks)
    ]
    got = torch.autograd.grad(carafe(*strided, 3, 2, 2).square().sum(), strided)
    for one, other in zip(got, want):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    'dtype, tolerance',
    [(torch.float32, 1e-5), pytest.param(torch.float16, 2e-2, marks=needs_half_on_cpu), (torch.bfloat16, 1e-1)],
    ids=str,
)
def test_each_dtype_is_kept_and_within_its_tolerance(dtype, tolerance):
    features, masks = random_input(2, 4, 3, 5, 3, 2, 2, dtype)
    out = carafe(features, masks, 3, 2, 2)
    out.sum().backward()
    assert out.dtype == features.grad.dtype == masks.grad.dtype == dtype
    torch.testing.assert_close(
        out.double(), naive(features.double(), masks.double(), 3, 2, 2), rtol=tolerance, atol=tolerance
    )


def test_empty_batch_has_empty_gradients():
    features, masks = random_input(0, 4, 3, 5, 3, 2, 2)
    out = carafe(features, masks, 3, 2, 2)
    out.sum().backward()
    assert out.shape == (0, 4, 6, 10) and features.grad.shape == features.shape and masks.grad.shape == masks.shape


@pytest.mark.parametrize('k, groups, s', [(4, 1, 2), (3, 3, 2), (3, 1, 3), (5, 1, 2)])
def test_mismatched_shapes_raise(k, groups, s):
    features, masks = random_input(1, 4, 3, 3, 3, 1, 2)
    with pytest.raises(ValueError, match=r'needs masks .* got \(1, 9, 6, 6\)'):
        carafe(features, masks, k, groups, s)


def test_backward_keeps_only_the_inputs():
    features, masks = random_input(2, 4, 6, 6, 3, 1, 2)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.data_ptr()) or t, lambda t: t):
        carafe(features, masks, 3, 1, 2)
    assert set(saved) == {features.data_ptr(), masks.data_ptr()}


@pytest.mark.parametrize('n, channels, groups, k, s', [(2, 6, 3, 5, 2), (1, 4, 1, 3, 3), (0, 4, 2, 3, 2)])
def test_carafe_by_shifts_matches_carafe(n, channels, groups, k, s):
    features, masks = torch.randn(n, channels, 4, 7), torch.randn(n, groups * k * k, 4 * s, 7 * s)
    torch.testing.assert_close(carafe_by_shifts(features, masks, k, groups, s), carafe(features, masks, k, groups, s))

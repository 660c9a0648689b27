import copy

import pytest
import torch
from torch import nn

from apa_mmdet.models.layers import SELayer
from apa_mmdet.ops import aglu, call_with_recomputation
from apa_mmdet.ops.recompute import recomputation_of
from apa_mmdet.structures.valid_region import ValidRegion, call_within, mark_valid_region, valid_region_of

SHAPES = [(5, 9), (8, 3)]


def batch(dtype=torch.float32):
    return mark_valid_region(torch.zeros(2, 3, 8, 9, dtype=dtype), SHAPES)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    'stride, sizes', [(1, SHAPES), (2, [(3, 5), (4, 2)]), (4, [(2, 3), (2, 1)]), (8, [(1, 2), (1, 1)])]
)
def test_mean_and_maximum_are_those_of_each_image_by_itself(stride, sizes, dtype):
    region = valid_region_of(batch(dtype), [2, 2, 2])
    x = (torch.randn(2, 4, -(-8 // stride), -(-9 // stride)) - 3).to(dtype)  # below 0, which lies outside
    parts = [x[n, :, :h, :w].double() for n, (h, w) in enumerate(sizes)]
    mean, highest = region.mean(x), region.max(x)
    assert mean.dtype == torch.promote_types(dtype, torch.float32) and highest.dtype == dtype
    torch.testing.assert_close(mean.double(), torch.stack([p.mean((1, 2)) for p in parts]), rtol=1e-6, atol=1e-6)
    assert torch.equal(highest.double(), torch.stack([p.amax((1, 2)) for p in parts]))


def test_a_sum_of_half_precision_does_not_overflow():
    x = torch.full((2, 1, 8, 9), 6e4, dtype=torch.float16)
    torch.testing.assert_close(valid_region_of(batch(x.dtype), [1]).mean(x), torch.full((2, 1), float(x[0, 0, 0, 0])))


def test_a_size_that_no_stride_leads_to_is_an_error():
    region = valid_region_of(batch(), [2, 2])
    with pytest.raises(ValueError, match='maps of 8x9, 4x5, 2x3; a layer got 3x3'):
        region.mean(torch.zeros(2, 1, 3, 3))


def test_a_mark_belongs_to_one_tensor():
    marked = batch()
    assert isinstance(valid_region_of(marked, [2]), ValidRegion)
    for other in (marked.clone(), marked.double(), marked[:1], marked.flip(0)):
        assert valid_region_of(other, [2]) is None
    assert valid_region_of(copy.copy(marked), [2]) is not None
    assert valid_region_of(mark_valid_region(torch.zeros(2, 3, 8, 9), [(8, 9)] * 2), [2]) is None, 'no padding'


def test_only_modules_that_take_a_region_get_one():
    region, x = valid_region_of(batch(), [1]), torch.randn(2, 32, 8, 9)

    class Own(SELayer):
        def forward(self, x):
            return super().forward(x)

    layer, own = SELayer(32).eval(), Own(32).eval()
    assert torch.equal(call_within(layer, x, region), layer(x, region))
    assert torch.equal(call_within(own, x, region), own(x)) and torch.equal(call_within(nn.ReLU(), x, region), x.relu())


def test_a_cleared_map_is_recomputed_in_backward_where_its_input_is():
    region = valid_region_of(batch(), [1])
    x, conv = torch.randn(2, 3, 8, 9, requires_grad=True), nn.Conv2d(3, 3, 3, padding=1)
    kept = []
    for recompute in (False, True):
        cleared = region.clear_outside(aglu(x, torch.ones(1), torch.ones(1), recompute=recompute))
        assert (
            torch.equal(cleared[1, :, :, 3:], torch.zeros(3, 8, 6))
            and (recomputation_of(cleared) is not None) == recompute
        )
        out = call_with_recomputation(conv, cleared).square().sum()
        del cleared
        kept.append(torch.autograd.grad(out, (x, *conv.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*kept))


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('order', [torch.contiguous_format, torch.channels_last])
def test_whatever_lies_outside_is_cleared(dtype, order):
    region = valid_region_of(batch(dtype), [1])
    x = torch.full((2, 3, 8, 9), torch.inf, dtype=dtype).contiguous(memory_format=order)
    for image, (h, w) in zip(x, SHAPES):
        image[:, :h, :w] = 2
    x[0, :, -1] = torch.nan
    cleared = region.clear_outside(x.requires_grad_())
    assert cleared.dtype == dtype and cleared.is_contiguous(memory_format=order)
    assert [image.sum().item() for image in cleared] == [3 * 2 * h * w for h, w in SHAPES]
    torch.testing.assert_close(region.mean(cleared).double(), torch.full((2, 3), 2.0).double(), rtol=1e-6, atol=0)
    cleared.sum().backward()
    assert [image.sum().item() for image in x.grad] == [3 * h * w for h, w in SHAPES]

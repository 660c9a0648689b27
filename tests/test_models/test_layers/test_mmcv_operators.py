"""Modules that call mmcv's operators, against themselves in contiguous float32, under the conditions of CUDA code."""

import copy

import pytest
import torch
from helpers.torch_features import needs_half_on_cpu
from mmcv.cnn import build_conv_layer
from mmcv.ops import CARAFEPack, MultiScaleDeformableAttention, RoIAlign
from mmdet.models.losses import FocalLoss
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import nn

from apa_mmdet.models.layers import DeviceAgnosticCARAFEPack, guard_operators, to_channels_last

ROIS = torch.tensor([[0, 3.0, 4, 30, 20], [1, 10, 10, 28, 30.5]])
SHAPES = torch.tensor([[4, 6], [2, 3]])


class Attention(nn.Module):
    """Deformable attention over two levels that are cut out of a map."""

    def __init__(self):
        super().__init__()
        self.attention = MultiScaleDeformableAttention(8, 2, 2, 2, dropout=0.0, batch_first=True)
        nn.init.normal_(self.attention.sampling_offsets.weight, std=0.3)

    def forward(self, x):
        value = torch.cat([x[:, :, :4, :6].flatten(2), x[:, :, :2, :3].flatten(2)], 2).transpose(1, 2)
        points = torch.linspace(0.1, 0.9, 2 * 30 * 2 * 2).reshape(2, 30, 2, 2)
        starts = torch.tensor([0, 24])
        return self.attention(
            value, value=value, reference_points=points, spatial_shapes=SHAPES, level_start_index=starts
        )


def deformable(kind, groups):
    layer = build_conv_layer(dict(type=kind, deform_groups=2), 8, 6, 3, padding=1, groups=groups, bias=False)
    nn.init.normal_(layer.conv_offset.weight, std=0.05)
    return layer


class RoIs(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, x):
        return self.part(x, ROIS) if isinstance(self.part, RoIAlign) else self.part((x, x[..., ::2, ::2]), ROIS)


EXTRACTOR = dict(roi_layer=dict(type='RoIAlign', output_size=3), out_channels=8, featmap_strides=[4, 8])
# name: (how to build it, its operator)
PARTS = {
    'RoIAlign': (lambda: RoIs(RoIAlign(3, 0.25)), 'roi_align'),
    'SingleRoIExtractor': (lambda: RoIs(SingleRoIExtractor(**EXTRACTOR)), 'roi_align'),
    'DCN': (lambda: deformable('DCN', 2), 'deform_conv'),
    'DCNv2': (lambda: deformable('DCNv2', 2), 'modulated_deform_conv'),
    'CARAFEPack': (lambda: CARAFEPack(8, 2, compressed_channels=4), 'carafe'),
    'MultiScaleDeformableAttention': (Attention, 'ms_deform_attn'),
}


def step(model, x, dtype):
    """Value, and gradients for the input and the weights, each with its dtype."""
    for parameter in model.parameters():
        parameter.grad = None
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
        out = model(x)
    (out.float() * torch.linspace(-1, 1, out.numel()).reshape(out.shape)).sum().backward()
    return out.detach(), x.grad, *(parameter.grad for parameter in model.parameters())


@needs_half_on_cpu  # under autocast
@pytest.mark.parametrize('part', PARTS)
@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_results_are_those_of_contiguous_float32(strict_operators, part, dtype, channels_last):
    build, operator = PARTS[part]
    model, x = nn.Sequential(nn.Conv2d(3, 8, 1), build()), torch.randn(2, 3, 8, 9)
    wanted = step(model, x, torch.float32)
    strict_operators.clear()
    guarded = copy.deepcopy(model)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
        to_channels_last(guarded)
    else:
        guard_operators(guarded)
    got = step(guarded, x, dtype)
    assert any(name.startswith(operator) and 'backward' in name for name in strict_operators)
    if part != 'MultiScaleDeformableAttention':  # which adds its query
        assert got[0].dtype == dtype
    # gradients for coordinates jump where a rounded offset crosses a pixel
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.1, torch.float16: 0.02}[dtype]
    for ours, exact in zip(got, wanted):
        assert (ours - exact).norm() <= tolerance * exact.norm()


@needs_half_on_cpu  # under autocast
@pytest.mark.parametrize('part', PARTS)
def test_without_a_guard_cuda_code_would_fail_or_misread(strict_operators, part):
    model, x = nn.Sequential(nn.Conv2d(3, 8, 1), PARTS[part][0]()), torch.randn(2, 3, 8, 9)
    handles = guard_operators(model)
    model(x.to(memory_format=torch.channels_last))
    for handle in handles:
        handle.remove()
    with pytest.raises(AssertionError, match='not implemented for'):
        step(model, x, torch.bfloat16)
    if part not in ('MultiScaleDeformableAttention', 'CARAFEPack'):  # made contiguous on the way
        model, x = (value.to(memory_format=torch.channels_last) for value in (model, x))
        with pytest.raises((AssertionError, RuntimeError), match='contiguous'):
            step(model, x, torch.float32)


def test_focal_loss_computes_in_float32():
    loss, logits, labels = FocalLoss(), torch.randn(5, 7).bfloat16(), torch.randint(0, 8, (5,))
    wanted = loss(logits.float(), labels)
    guard_operators(loss)
    assert torch.equal(loss(logits, labels), wanted)


def test_modules_that_take_any_dtype_and_layout_are_left_alone():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), DeviceAgnosticCARAFEPack(8, 2))
    assert not guard_operators(model)

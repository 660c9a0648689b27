"""mmcv's operators with the conditions of their CUDA code, on a CPU.

Its code for CUDA computes in float32, float64 and float16, NMS in float32 alone, all tensors of a call alike, and reads
each as contiguous without asking. Here each call asserts that, then computes: with mmcv's code for a CPU, or for CARAFE
and deformable attention, which have none, with plain PyTorch.
"""

import functools

import mmcv._ext
import torch
from mmcv.ops import multi_scale_deform_attn

from apa_mmdet.ops.carafe import carafe_by_shifts

DTYPES = torch.float32, torch.float64, torch.float16
WITH_CPU_CODE = ('nms', 'roi_align_forward', 'roi_align_backward', 'deform_conv_forward', 'deform_conv_backward_input')
WITH_CPU_CODE += ('deform_conv_backward_parameters', 'modulated_deform_conv_forward', 'modulated_deform_conv_backward')


def install(monkeypatch):
    """Replaces them in this process; returns the set of names, in which each that is called appears."""
    called = set()
    for name in WITH_CPU_CODE:
        _replace(monkeypatch, called, name, getattr(mmcv._ext, name), (torch.float32,) if name == 'nms' else DTYPES)
    for function in (carafe_forward, carafe_backward, ms_deform_attn_forward, ms_deform_attn_backward):
        _replace(monkeypatch, called, function.__name__, function, DTYPES)
    attend = multi_scale_deform_attn.MultiScaleDeformableAttnFunction.apply
    monkeypatch.setattr(
        multi_scale_deform_attn,
        'multi_scale_deformable_attn_pytorch',  # what mmcv's layer calls on a CPU
        lambda value, shapes, locations, weights: attend(value, shapes, _starts(shapes), locations, weights, 64),
    )
    return called


def _replace(monkeypatch, called, name, function, dtypes):
    @functools.wraps(function)
    def strict(*args, **kwargs):
        called.add(name)
        floats = [x for x in (*args, *kwargs.values()) if torch.is_tensor(x) and x.is_floating_point()]
        assert {x.dtype for x in floats} <= set(dtypes), f'{name} is not implemented for {[x.dtype for x in floats]}'
        assert len({x.dtype for x in floats}) == 1, f'{name} got several dtypes: {[x.dtype for x in floats]}'
        assert len({x.device for x in floats}) == 1
        assert all(x.is_contiguous() for x in floats), (
            f'{name} would read a tensor that is not contiguous as if it were'
        )
        return function(*args, **kwargs)

    monkeypatch.setattr(mmcv._ext, name, strict)


def _carafe(features, masks, kernel_size, group_size, scale_factor):
    return carafe_by_shifts(features, masks, kernel_size, group_size, scale_factor)


def carafe_forward(features, masks, rfeatures, routput, rmasks, output, **sizes):
    rfeatures.resize_(features.permute(0, 2, 3, 1).shape).copy_(features.permute(0, 2, 3, 1))
    output.copy_(_carafe(features, masks, **sizes))


def carafe_backward(
    grad, rfeatures, masks, rgrad, rgrad_features_hs, rgrad_features, rgrad_masks, grad_features, grad_masks, **sizes
):
    features = rfeatures.permute(0, 3, 1, 2)
    for result, value in zip((grad_features, grad_masks), _gradients(_carafe, grad, features, masks, **sizes)):
        result.copy_(value)


_attention = multi_scale_deform_attn.multi_scale_deformable_attn_pytorch


def _starts(shapes):
    areas = shapes.prod(1)
    return areas.cumsum(0) - areas


def ms_deform_attn_forward(value, shapes, starts, locations, weights, im2col_step):
    assert torch.equal(starts, _starts(shapes))
    return _attention(value, shapes, locations, weights)


def ms_deform_attn_backward(
    value, shapes, starts, locations, weights, grad, grad_value, grad_locations, grad_weights, im2col_step
):
    def attend(value, locations, weights):
        return _attention(value, shapes, locations, weights)

    gradients = _gradients(attend, grad, value, locations, weights)
    for result, gradient in zip((grad_value, grad_locations, grad_weights), gradients):
        result.copy_(gradient)


def _gradients(function, grad, *inputs, **kwargs):
    with torch.enable_grad(), torch.autocast('cpu', enabled=False):
        inputs = [x.detach().requires_grad_() for x in inputs]
        return torch.autograd.grad(function(*inputs, **kwargs), inputs, grad)

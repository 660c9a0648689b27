"""Mask predictors by cosine similarity against recorded figures."""

import numpy as np
import pytest
import torch
from helpers.recordings import image, load, value
from helpers.torch_features import needs_half_on_cpu
from mmdet.models.layers import NormedConv2d
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope
from torch.autograd import gradcheck

from apa_mmdet.models.layers import LearnableNormedConv2d

CONVS = dict(normed_conv_learnable=LearnableNormedConv2d, normed_conv_fixed20=NormedConv2d)


@pytest.mark.parametrize('name', CONVS)
def test_outputs_and_gradients_match_the_recorded_figures(name):
    recorded = {key.split('/')[1]: array for key, array in load('predictors.npz').items() if key.startswith(name)}
    conv = CONVS[name](16, 7, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.from_numpy(value('weight', conv.weight.shape)))
        conv.bias.copy_(torch.from_numpy(value('bias', conv.bias.shape)))
        if name == 'normed_conv_learnable':
            assert conv.temperature.item() == value('tempearture', ())
    x = torch.from_numpy(image((3, 16, 5, 6), 1)).requires_grad_()
    out = conv(x)
    weights = np.random.default_rng([78, 0]).normal(0, 1, out.shape).astype(np.float32)
    (out * torch.from_numpy(weights)).sum().backward()
    got = dict(out=out.detach(), grad_input=x.grad, grad_weight=conv.weight.grad, grad_bias=conv.bias.grad)
    if name == 'normed_conv_learnable':
        got['grad_tempearture'] = conv.temperature.grad
    assert set(got) == set(recorded)
    for key, tensor in got.items():
        np.testing.assert_allclose(tensor.numpy(), recorded[key], rtol=1e-4, atol=1e-5, err_msg=key)


def test_1x1_kernel_is_the_cosine_times_the_square_of_the_temperature():
    conv, x = LearnableNormedConv2d(6, 4, 1, temperature=3.0), torch.randn(2, 6, 3, 5)
    cosine = torch.cosine_similarity(x[:, None], conv.weight.view(1, 4, 6, 1, 1), dim=2)
    torch.testing.assert_close(conv(x), 9 * cosine + conv.bias.view(1, 4, 1, 1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(conv(5 * x), conv(x), rtol=1e-4, atol=1e-4)


def test_larger_kernels_and_options_match_mmdets_normed_conv():
    conv = LearnableNormedConv2d(4, 6, 3, stride=2, padding=1, bias=False).double()
    x = torch.randn(2, 4, 7, 5, dtype=torch.float64, requires_grad=True)
    fixed = NormedConv2d(4, 6, 3, stride=2, padding=1, bias=False).double()
    fixed.load_state_dict(dict(weight=conv.weight))
    torch.testing.assert_close(conv(x) / 4.5**2, fixed(x) / 20)
    assert gradcheck(lambda x, *_: conv(x), (x, *conv.parameters()))


def test_zero_pixels_and_empty_batches_are_finite():
    conv = LearnableNormedConv2d(4, 3, 1)
    x = torch.zeros(1, 4, 2, 2, requires_grad=True)
    out = conv(x)
    out.sum().backward()
    assert torch.equal(out, conv.bias.view(1, 3, 1, 1).expand_as(out)) and x.grad.isfinite().all()
    assert conv(torch.zeros(0, 4, 2, 2)).shape == (0, 3, 2, 2)


@needs_half_on_cpu
@pytest.mark.parametrize('constant', [0.0, 1e-6, 1e-4, 1e4])
def test_half_precision_is_finite(constant):
    conv = LearnableNormedConv2d(4, 3, 1).half()
    assert conv(torch.full((1, 4, 2, 2), constant, dtype=torch.float16)).isfinite().all()


@pytest.mark.parametrize('class_agnostic, channels', [(False, 5), (True, 1)])
def test_it_serves_as_predictor_of_a_mask_head(class_agnostic, channels):
    with DefaultScope.overwrite_default_scope('mmdet'):
        head = MODELS.build(
            dict(
                type='FCNMaskHead',
                num_convs=1,
                in_channels=8,
                conv_out_channels=8,
                num_classes=5,
                class_agnostic=class_agnostic,
                predictor_cfg=dict(type='LearnableNormedConv2d', temperature=4.0),
            )
        )
    head.init_weights()
    assert type(head.conv_logits) is LearnableNormedConv2d and head.conv_logits.temperature == 4
    assert head.conv_logits.temperature.shape == ()
    out = head(torch.randn(2, 8, 14, 14))
    out.sum().backward()
    assert out.shape == (2, channels, 28, 28) and head.conv_logits.temperature.grad != 0
    assert {'conv_logits.weight', 'conv_logits.bias', 'conv_logits.temperature'} <= set(head.state_dict())

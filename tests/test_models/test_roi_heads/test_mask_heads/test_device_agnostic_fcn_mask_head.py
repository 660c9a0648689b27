"""FCNMaskHead with CARAFE on any device: same weights as the stock head, and no change to the stock head."""

import pytest
import torch
from mmcv.ops.carafe import CARAFEPack
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope

from apa_mmdet.models.layers import DeviceAgnosticCARAFEPack

CARAFE = dict(type='carafe', scale_factor=2, up_kernel=5, up_group=1, encoder_kernel=3, compressed_channels=64)
HEAD = dict(num_convs=1, in_channels=16, conv_out_channels=16, num_classes=3)


def build(head_type, **options):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(dict(HEAD, type=head_type, **options))


@pytest.mark.parametrize('head_type', ['DeviceAgnosticFCNMaskHead', 'PartiallyLabeledMaskHead'])
def test_forward_and_backward_with_and_without_foreground(head_type):
    head = build(head_type, upsample_cfg=CARAFE)
    head.init_weights()
    assert type(head.upsample) is DeviceAgnosticCARAFEPack
    assert head.upsample.content_encoder.weight.std() < 0.002
    out = head(torch.randn(2, 16, 14, 14))
    out.sum().backward()
    assert out.shape == (2, 3, 28, 28)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    head.zero_grad()
    empty = head(torch.randn(0, 16, 14, 14))  # a step without foreground
    empty.sum().backward()
    assert empty.shape == (0, 3, 28, 28) and all((p.grad == 0).all() for p in head.parameters())


@pytest.mark.parametrize('upsample', [CARAFE, dict(type='deconv', scale_factor=2)], ids=['carafe', 'deconv'])
def test_weights_and_random_state_match_the_stock_head(upsample):
    weights, states = [], []
    for head_type in ('FCNMaskHead', 'DeviceAgnosticFCNMaskHead'):
        head = build(head_type, upsample_cfg=upsample)
        weights.append({name: p.clone() for name, p in head.named_parameters()})
        states.append(torch.get_rng_state())
        head.init_weights()
        weights[-1].update({f'initialized {name}': p for name, p in head.named_parameters()})
    assert list(weights[0]) == list(weights[1]) and torch.equal(*states)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_stock_mask_head_keeps_the_layer_of_mmcv():
    head = build('FCNMaskHead', upsample_cfg=CARAFE)
    assert type(head) is FCNMaskHead and type(head.upsample) is CARAFEPack

import copy

import pytest
import torch
from helpers.replicas import replica_of
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead

from apa_mmdet.models.layers import CosineLinear

LEARNED = dict(scale=25.0, learn_scale=True)


def by_hand(layer, x):
    scale = layer.sigma**2 if hasattr(layer, 'sigma') else layer.scale
    lengths = torch.stack([row.square().sum().sqrt() for row in x])[:, None]
    return scale * (x / (1 + lengths)) @ (layer.weight / layer.weight.square().sum(1, keepdim=True).sqrt()).T


@pytest.mark.parametrize('kwargs', [{}, dict(scale=3.0), LEARNED], ids=str)
def test_matches_the_formula(kwargs):
    layer = CosineLinear(7, 5, **kwargs).double()
    x = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    got, want = layer(x), by_hand(layer, x)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    weights, leaves = torch.randn_like(want), (x, *layer.parameters())
    for a, b in zip(*(torch.autograd.grad((out * weights).sum(), leaves) for out in (got, want))):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_the_scale_is_no_weight_unless_it_is_learned():
    assert list(CosineLinear(4, 2).state_dict()) == ['weight']
    layer = CosineLinear(4, 2, **LEARNED)
    assert layer.sigma.tolist() == [5.0] and list(layer.state_dict()) == ['weight', 'sigma']
    with pytest.raises(ValueError, match='scale must be positive, got 0'):
        CosineLinear(4, 2, scale=0)


@pytest.mark.parametrize('kwargs', [{}, LEARNED], ids=str)
def test_logits_are_float32_under_autocast_and_finite_at_zero(kwargs):
    layer, x = CosineLinear(64, 3, **kwargs), torch.randn(8, 64)
    x[0] = 0
    want = copy.deepcopy(layer).double()(x.bfloat16().double())
    x = x.bfloat16().requires_grad_()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = layer(x)
    out.square().sum().backward()
    assert out.dtype == torch.float32 and (out[0] == 0).all()
    torch.testing.assert_close(out.double(), want, rtol=1e-5, atol=1e-5)
    assert all(p.grad.isfinite().all() for p in (x, *layer.parameters()))


def test_the_learned_scale_is_that_of_a_replica():
    layer, x = CosineLinear(4, 2, **LEARNED), torch.randn(3, 4)
    torch.nn.init.constant_(layer.sigma, 3.0)
    results = [torch.autograd.grad(net(x).sum(), layer.sigma) for net in (replica_of(layer), layer)]
    assert results[0] == results[1]


def test_empty_batches_and_initialization():
    layer = CosineLinear(256, 1000, **LEARNED)
    assert layer(torch.zeros(0, 256)).shape == (0, 1000)
    with torch.no_grad():
        layer.sigma.zero_()
    layer.reset_parameters()
    assert layer.sigma.item() == 5 and layer.weight.std().item() == pytest.approx(1 / 16, rel=0.01)


def test_a_bbox_head_builds_it():
    head = Shared2FCBBoxHead(
        in_channels=4, fc_out_channels=8, roi_feat_size=1, num_classes=3, cls_predictor_cfg=dict(type='CosineLinear')
    )
    assert isinstance(head.fc_cls, CosineLinear) and head.fc_cls.weight.shape == (4, 8)


def test_shapes_are_known_without_data():
    out = CosineLinear(7, 5).to('meta')(torch.empty(3, 7, dtype=torch.bfloat16, device='meta'))
    assert (out.device.type, out.shape, out.dtype) == ('meta', (3, 5), torch.float32)

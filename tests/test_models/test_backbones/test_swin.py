"""AGLU in mmdet's SwinTransformer, by configuration alone."""

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from torch import nn

from apa_mmdet.models.activations import AGLU

SMALL = dict(
    type='mmdet.SwinTransformer', embed_dims=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), drop_path_rate=0.0
)
NEAR_GELU = dict(type='AGLU', lambda_init=(1, 1), kappa_init=(1.702, 1.702))


def swin(**kwargs):
    return MODELS.build(ConfigDict(SMALL, **kwargs))


def test_every_mlp_has_an_activation_of_its_own():
    net = swin(act_cfg=dict(type='AGLU'))
    found = {name: module for name, module in net.named_modules() if isinstance(module, AGLU)}
    assert list(found) == [f'stages.{s}.blocks.{b}.ffn.layers.0.1' for s in range(4) for b in range(2)]
    assert len({id(act) for act in found.values()}) == len({act.kappa.item() for act in found.values()}) == 8
    assert not [name for name, module in net.named_modules() if isinstance(module, nn.GELU)]
    # nothing else changes: these two are the only names that GELU's checkpoints do not have
    ours = {f'{name}.{parameter}' for name in found for parameter in ('lambda_', 'kappa')}
    assert set(net.state_dict()) - set(swin().state_dict()) == ours


@pytest.mark.parametrize('kwargs', [{}, dict(with_cp=True)], ids=str)
def test_every_parameter_gets_a_gradient(kwargs):
    net = swin(act_cfg=dict(type='AGLU'), **kwargs)
    net.train()
    features = net(torch.randn(1, 3, 64, 96))
    assert [tuple(f.shape) for f in features] == [(1, 32, 16, 24), (1, 64, 8, 12), (1, 128, 4, 6), (1, 256, 2, 3)]
    sum((f * torch.randn_like(f)).mean() for f in features).backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not (p.grad != 0).any()]


def test_activations_of_frozen_stages_are_frozen():
    net = swin(act_cfg=dict(type='AGLU'), frozen_stages=1)
    net.train()  # where mmdet's Swin freezes
    trained = [any(p.requires_grad for p in m.parameters()) for m in net.modules() if isinstance(m, AGLU)]
    assert trained == 2 * [False] + 6 * [True]


def test_autocast_keeps_the_dtype_of_the_linear_layers():
    net, dtypes = swin(act_cfg=dict(type='AGLU')), set()
    for module in net.modules():
        if isinstance(module, AGLU):
            module.register_forward_hook(lambda module, args, out: dtypes.update((args[0].dtype, out.dtype)))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        sum(f.float().mean() for f in net(torch.randn(1, 3, 64, 64))).backward()
    assert dtypes == {torch.bfloat16}
    assert all(m.kappa.grad.isfinite().all() for m in net.modules() if isinstance(m, AGLU))


def test_aglu_near_gelu_is_within_two_hundredths():
    z = torch.linspace(-10, 10, 20001, dtype=torch.float64)
    act = MODELS.build(NEAR_GELU).double()
    assert (act(z) - nn.functional.gelu(z)).abs().max() < 0.021


def test_weights_trained_with_gelu_give_nearly_the_same_features(tmp_path):
    gelu = swin()
    torch.save({f'backbone.{name}': tensor for name, tensor in gelu.state_dict().items()}, tmp_path / 'gelu.pth')
    x, distances = torch.randn(2, 3, 64, 64), {}
    for name, act_cfg in dict(gelu=dict(type='GELU'), near=NEAR_GELU, far=dict(type='AGLU')).items():
        net = swin(act_cfg=act_cfg, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'gelu.pth')))
        net.init_weights()
        with torch.no_grad():
            distances[name] = [((a - b).norm() / b.norm()).item() for a, b in zip(net(x), gelu(x))]
    assert distances['gelu'] == [0.0] * 4
    assert 0 < max(distances['near']) < 0.015, distances  # 0.003 to 0.010, stage by stage
    assert max(distances['far']) > 5 * max(distances['near']), distances

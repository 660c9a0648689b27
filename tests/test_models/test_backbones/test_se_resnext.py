"""SEResNeXt against mmdet's ResNeXt; test_se_resnet.py tests what it shares with SEResNet."""

import pytest
import torch
from mmdet.registry import MODELS
from torch import nn

from apa_mmdet.models.activations import AGLU
from apa_mmdet.models.backbones import SEResNeXt
from apa_mmdet.models.layers import CBAM, SELayer

SMALL = dict(depth=50, groups=4, base_width=8, base_channels=16)  # width of the 3x3: 32, 64, 128, 256
PLUGINS = [
    dict(cfg=dict(type='ContextBlock', ratio=1 / 16), stages=(False, True, True, True), position='after_conv3'),
    dict(cfg=dict(type='NonLocal2d'), position='after_conv2'),
]


def gradients(net, x):
    return torch.autograd.grad(sum(f.square().mean() for f in net(x)), [p for p in net.parameters() if p.requires_grad])


@pytest.mark.parametrize(
    'depth, base_width, resnext', [(50, 4, 22_979_904), (101, 8, 86_742_336), (152, 4, 57_902_400)]
)
def test_number_of_parameters_is_mmdets_plus_attention_and_activations(depth, base_width, resnext):
    with torch.device('meta'):
        ours = SEResNeXt(depth, base_width=base_width)
        theirs = MODELS.build(dict(type='mmdet.ResNeXt', depth=depth, groups=32, base_width=base_width))
    assert sum(p.numel() for p in theirs.parameters()) == resnext
    channels = [256 * 2**stage for stage, blocks in enumerate(ours.stage_blocks) for _ in range(blocks)]
    attention = sum(2 * c + 2 * c * (c // 16) + 2 for c in channels)  # norm, two linear maps, gate
    activations = 2 * (1 + 3 * len(channels))
    assert sum(p.numel() for p in ours.parameters()) == resnext + attention + activations
    x = torch.empty(2, 3, 64, 96, device='meta')
    assert [f.shape for f in ours(x)] == [f.shape for f in theirs(x)]


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(depth=50, groups=32, base_width=4),
        SMALL,
        dict(SMALL, depth=101),
        dict(SMALL, groups=1),
        dict(SMALL, deep_stem=True),
        dict(SMALL, avg_down=True),
        dict(SMALL, style='caffe'),
        dict(SMALL, norm_cfg=dict(type='GN', num_groups=8)),
        dict(SMALL, norm_eval=False),
        dict(SMALL, plugins=PLUGINS),
        dict(SMALL, dcn=dict(type='DCNv2', deform_groups=1), stage_with_dcn=(False, True, True, True)),
    ],
    ids=str,
)
def test_with_relu_and_without_attention_it_equals_mmdets_resnext(kwargs):
    ours = SEResNeXt(act_cfg=dict(type='ReLU'), se_cfg=None, **kwargs).train()
    theirs = MODELS.build(dict(type='mmdet.ResNeXt', **kwargs))
    theirs.load_state_dict(ours.state_dict())
    theirs.train()
    x = torch.randn(2, 3, 64, 64)
    for a, b in zip(ours(x), theirs(x)):
        torch.testing.assert_close(a, b)
    if kwargs is SMALL:
        for a, b in zip(gradients(ours, x), gradients(theirs, x)):
            torch.testing.assert_close(a, b)


def test_every_site_gets_its_channel_count():
    net = SEResNeXt(**SMALL, act_cfg=dict(type='AGLU', num_features=None), se_cfg=dict(type='CBAM'))
    for stage, name in enumerate(net.res_layers):
        for block in getattr(net, name):
            widths = [block.act_conv1.num_features, block.act_conv2.num_features, block.act_out.num_features]
            assert widths == [32 << stage, 32 << stage, 64 << stage]
            assert isinstance(block.se, CBAM) and block.se.fc1.in_features == 64 << stage
    assert sum(isinstance(m, AGLU) for m in net.modules()) == 1 + 3 * 16
    assert sum(isinstance(m, SELayer) for m in SEResNeXt(**SMALL).modules()) == 16


@pytest.mark.parametrize('option', [dict(with_cp=True), dict(recompute_act=True)], ids=str)
@pytest.mark.parametrize(
    'kwargs', [{}, dict(norm_eval=False), dict(plugins=PLUGINS), dict(se_cfg=dict(type='CBAM'))], ids=str
)
def test_recompute_act_and_with_cp_give_the_same_gradients(option, kwargs):
    kwargs = dict(dict(SMALL, se_cfg=dict(dropout=0.0)), **kwargs)
    plain, other = SEResNeXt(**kwargs).train(), SEResNeXt(**kwargs, **option).train()
    other.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for a, b in zip(gradients(plain, x), gradients(other, x)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('zero_init_residual', [True, False])
def test_residual_branches_start_at_zero(zero_init_residual):
    net = SEResNeXt(**SMALL, zero_init_residual=zero_init_residual)
    net.init_weights()
    for name in net.res_layers:
        for block in getattr(net, name):
            assert (block.norm3.weight == (0 if zero_init_residual else 1)).all()
            assert (block.norm1.weight == 1).all() and (block.norm2.weight == 1).all()


def test_frozen_stages_and_norms_in_eval_mode():
    net = SEResNeXt(**SMALL, frozen_stages=1).train()
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert {'act_stem.kappa', 'layer1.2.act_conv2.lambda_', 'layer1.0.se.gate.kappa', 'layer1.0.conv2.weight'} <= frozen
    assert not [name for name in frozen if name.startswith(('layer2', 'layer3', 'layer4'))]
    assert not any(m.training for m in net.modules() if isinstance(m, nn.BatchNorm2d))


def test_unknown_depth_is_refused():
    with pytest.raises(ValueError, match=r'SEResNeXt: unknown depth 18, choose from \[50, 101, 152\]'):
        SEResNeXt(18)

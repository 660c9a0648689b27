import pytest
import torch
from torch import nn
from torch.nn import functional as F

from apa_mmdet.models.activations import AGLU
from apa_mmdet.models.backbones import SEResNet, SEResNetCifar

BASELINE = dict(act_cfg=dict(type='ReLU'), se_cfg=dict(norm_cfg=None, gate_cfg=dict(type='Sigmoid'), dropout=0.0))


@pytest.mark.parametrize('depth, blocks', [(20, 3), (32, 5), (44, 7)])
def test_stages_and_widths(depth, blocks):
    with torch.device('meta'):
        net = SEResNetCifar(depth)
    assert [len(getattr(net, name)) for name in net.res_layers] == [blocks] * 3
    assert net.conv1.weight.shape == (16, 3, 3, 3) and net.layer3[0].se.fc1.weight.shape == (16, 64)
    assert sum(isinstance(m, AGLU) for m in net.modules()) == 1 + 2 * 3 * blocks
    assert not [name for name in net.state_dict() if 'downsample' in name]


def test_the_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides():
    net = SEResNetCifar(20, **BASELINE).double().eval()
    block, x = net.layer2[0], torch.randn(2, 16, 7, 6, dtype=torch.float64)
    branch = block.norm2(block.conv2(block.norm1(block.conv1(x)).relu()))
    identity = torch.cat((torch.zeros(2, 8, 4, 3), x[:, :, ::2, ::2], torch.zeros(2, 8, 4, 3)), 1)
    torch.testing.assert_close(block(x), (block.se(branch) + identity).relu(), rtol=1e-12, atol=1e-12)


def test_shapes_options_and_gradients():
    net = SEResNetCifar(20, base_channels=4, out_indices=(0, 1, 2), norm_eval=False, se_cfg=dict(ratio=2))
    assert net.layer1[0].se.fc1.out_features == 2
    outs = net.train()(torch.randn(2, 3, 9, 12))
    assert [tuple(out.shape[1:]) for out in outs] == [(4, 9, 12), (8, 5, 6), (16, 3, 3)]
    sum(out.square().mean() for out in outs).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    with pytest.raises(ValueError, match='SEResNetCifar: unknown depth 50, choose from '):
        SEResNetCifar(50)


def test_frozen_parts_are_the_first_blocks_after_the_frozen_stages():
    net = SEResNet(18, frozen_stages=3, frozen_blocks=1, norm_eval=False, base_channels=8, stem_channels=8).train()
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert trained and all(name.startswith('layer4.1.') for name in trained)
    norms = {name: m.training for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {name for name, training in norms.items() if training} == {'layer4.1.bn1', 'layer4.1.bn2'}
    net.conv1.register_full_backward_hook(lambda *_: pytest.fail('the stem was differentiated'))
    F.adaptive_avg_pool2d(net(torch.randn(2, 3, 32, 32))[-1], 1).sum().backward()
    assert all((p.grad is None) == (name not in trained) for name, p in net.named_parameters())


@pytest.mark.parametrize('stages, blocks', [(4, 1), (-1, 1), (1, 3)])
def test_blocks_that_are_not_there_cannot_be_frozen(stages, blocks):
    with pytest.raises(ValueError, match=f'frozen_blocks={blocks}, but the stage after frozen_stages={stages} has '):
        SEResNet(18, frozen_stages=stages, frozen_blocks=blocks)

"""Which sites there are, and that each call reaches its own, by hand."""
import copy
import pickle

import pytest
import torch
from mmcv.cnn import fuse_conv_bn
from mmdet.models.backbones.resnet import BasicBlock, Bottleneck
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from torch import nn

from apa_mmdet.models.layers import swap_activations
from apa_mmdet.models.layers.sites import Sites, find_sites

AGLU = dict(ReLU=dict(type='AGLU', lambda_init=(.2, 2), kappa_init=(.5, 3)))  # far apart

ONE_STAGE = dict(num_stages=1, strides=(1, ), dilations=(1, ), out_indices=(0, ))


def aglu(act, z):
    return z * (act.lambda_ * torch.exp(-act.kappa * z) + 1)**(-1 / act.lambda_)


def bottleneck(downsample=False, **kwargs):
    down = nn.Sequential(nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16)) if downsample else None
    return Bottleneck(8 if downsample else 16, 4, downsample=down, **kwargs).double().eval()


def by_hand(block, x):
    out = aglu(block.relu[0], block.norm1(block.conv1(x)))
    out = aglu(block.relu[1], block.norm2(block.conv2(out)))
    return aglu(block.relu[2], block.norm3(block.conv3(out)) + (block.downsample(x) if block.downsample else x))


def gradients(block, *outs):
    block.zero_grad()
    sum(out.square().sum() for out in outs).backward()  # mmdet's checkpointing supports no autograd.grad
    return [parameter.grad.clone() for parameter in block.parameters()]


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('downsample', [False, True])
def test_a_bottleneck_has_three_sites_each_with_its_own_parameters(downsample, with_cp):
    block = swap_activations(bottleneck(downsample, with_cp=with_cp), AGLU).double()
    assert len({act.kappa.item() for act in block.relu}) == 3
    x, y = (torch.randn(2, 8 if downsample else 16, 5, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    torch.testing.assert_close(block(x), by_hand(block, x))
    # two passes before the backward, in which checkpointing runs parts of both again
    for got, want in zip(gradients(block, block(x), block(y)), gradients(block, by_hand(block, x), by_hand(block, y))):
        torch.testing.assert_close(got, want)


def test_a_basic_block_has_two():
    block = swap_activations(BasicBlock(8, 8).double().eval(), AGLU).double()
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    out = block.norm2(block.conv2(aglu(block.relu[0], block.norm1(block.conv1(x)))))
    torch.testing.assert_close(block(x), aglu(block.relu[1], out + x))


def test_a_loop_over_layers_has_one_for_each():
    head = MODELS.build(dict(type='mmdet.Shared2FCBBoxHead', in_channels=4, fc_out_channels=8, roi_feat_size=3))
    head = swap_activations(head, AGLU).double()
    x = torch.randn(5, 4, 3, 3, dtype=torch.float64)
    hidden = aglu(head.relu[1], head.shared_fcs[1](aglu(head.relu[0], head.shared_fcs[0](x.flatten(1)))))
    torch.testing.assert_close(head(x), (head.fc_cls(hidden), head.fc_reg(hidden)))


def test_a_head_has_the_same_at_every_level():
    init_default_scope('mmdet')
    head = MODELS.build(dict(
        type='RepPointsHead', num_classes=3, in_channels=8, feat_channels=8, point_feat_channels=8, stacked_convs=1,
        loss_cls=dict(type='FocalLoss')))
    sites = find_sites(head, ['relu'])['relu']
    assert [site.layers[-1] for site in sites] == [
        head.reppoints_pts_init_conv, head.reppoints_cls_conv, head.reppoints_pts_refine_conv]
    assert len(swap_activations(head, dict(ReLU=dict(type='AGLU')), include='relu').relu) == 3


@pytest.mark.parametrize('cfg, name, counts', [
    (dict(type='Res2Net', depth=50, scales=4, base_width=4, base_channels=8, **ONE_STAGE), 'layer1.0', [5]),
    (dict(type='ResNeSt', depth=50, base_channels=8, **ONE_STAGE), 'layer1.0', [2]),
    (dict(type='ResNeSt', depth=50, base_channels=8, **ONE_STAGE), 'layer1.0.conv2', [2]),
    (dict(type='TridentResNet', depth=50, num_branch=3, test_branch_idx=-1, trident_dilations=(1, 2, 3), num_stages=3,
          strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2, ), base_channels=8), 'layer3.1', [3]),
    (dict(type='FCNMaskHead', in_channels=8, conv_out_channels=8), '', [1]),
    (dict(type='FCNMaskHead', in_channels=8, conv_out_channels=8, upsample_cfg=dict(type='nearest', scale_factor=2)), '', [0]),
    (dict(type='RetinaHead', num_classes=3, in_channels=8, feat_channels=8), '', [0]),
    (dict(type='FoveaHead', num_classes=3, in_channels=8, feat_channels=8, with_deform=True), 'feature_adaption', [1]),
], ids=lambda value: value.get('type') if isinstance(value, dict) else str(value))
def test_counts(cfg, name, counts):
    init_default_scope('mmdet')
    owner = MODELS.build(cfg).get_submodule(name)
    assert [len(sites) for sites in find_sites(owner, ['relu']).values()] == counts


def test_finding_them_leaves_no_trace():
    block = bottleneck().train()
    block.norm2.eval()
    before, modes = copy.deepcopy(block.state_dict()), [part.training for part in block.modules()]
    relu = block.relu
    assert len(find_sites(block, ['relu'])['relu']) == 3
    assert block.relu is relu and [part.training for part in block.modules()] == modes
    assert not any(part._forward_hooks for part in block.modules())
    assert all(torch.equal(value, before[key]) for key, value in block.state_dict().items())


def test_an_activation_before_all_layers_cannot_be_told():

    class PreActivation(nn.Module):

        def __init__(self):
            super().__init__()
            self.conv1, self.conv2, self.relu = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.ReLU()

        def forward(self, x):
            return self.conv2(self.relu(self.conv1(self.relu(x))))

    assert find_sites(PreActivation(), ['relu']) == dict(relu=None)


@pytest.mark.parametrize('change', [
    copy.deepcopy, lambda block: pickle.loads(pickle.dumps(block)), lambda block: fuse_conv_bn(copy.deepcopy(block)),
    lambda block: torch.jit.trace(block, torch.ones(1, 16, 3, 3, dtype=torch.float64)),
    lambda block: torch.compile(block, backend='eager', fullgraph=True),
], ids=['copy', 'pickle', 'fold the norms', 'trace', 'compile'])
def test_sites_survive(change):
    block = swap_activations(bottleneck(), AGLU).double()
    changed, x = change(block), torch.randn(2, 16, 4, 4, dtype=torch.float64)
    want = block(x)
    block.relu.current = 0  # which is no business of a copy
    torch.testing.assert_close(changed(x), want)


def test_a_call_before_any_layer_is_an_error():
    with pytest.raises(RuntimeError, match='before any of the layers'):
        Sites([nn.ReLU()], [])(torch.ones(1))

"""Which call sites are found, and that each call reaches its own activation, against formulas by hand."""

import copy
import pickle

import pytest
import torch
from helpers.torch_features import compiles_in_one_graph
from mmcv.cnn import fuse_conv_bn
from mmdet.models.backbones.resnet import BasicBlock, Bottleneck
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope
from torch import nn

from apa_mmdet.models.surgery import SwapError, swap_activations
from apa_mmdet.models.surgery.call_sites import find_call_sites

AGLU = dict(ReLU=dict(type='AGLU', lambda_init=(0.2, 2), kappa_init=(0.5, 3)))  # far apart

ONE_STAGE = dict(num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,))


def aglu(act, z):
    return z * (act.lambda_ * torch.exp(-act.kappa * z) + 1) ** (-1 / act.lambda_)


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
def test_a_bottleneck_has_three_call_sites_with_parameters_of_their_own(downsample, with_cp):
    block = swap_activations(bottleneck(downsample, with_cp=with_cp), AGLU).double()
    assert len({act.kappa.item() for act in block.relu}) == 3
    x, y = (torch.randn(2, 8 if downsample else 16, 5, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    torch.testing.assert_close(block(x), by_hand(block, x))
    # two passes before the backward, in which checkpointing runs parts of both again
    for got, want in zip(gradients(block, block(x), block(y)), gradients(block, by_hand(block, x), by_hand(block, y))):
        torch.testing.assert_close(got, want)


def test_a_basic_block_has_two_call_sites():
    block = swap_activations(BasicBlock(8, 8).double().eval(), AGLU).double()
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    out = block.norm2(block.conv2(aglu(block.relu[0], block.norm1(block.conv1(x)))))
    torch.testing.assert_close(block(x), aglu(block.relu[1], out + x))


def test_a_loop_over_layers_has_one_call_site_for_each_layer():
    head = MODELS.build(dict(type='mmdet.Shared2FCBBoxHead', in_channels=4, fc_out_channels=8, roi_feat_size=3))
    head = swap_activations(head, AGLU).double()
    x = torch.randn(5, 4, 3, 3, dtype=torch.float64)
    hidden = aglu(head.relu[1], head.shared_fcs[1](aglu(head.relu[0], head.shared_fcs[0](x.flatten(1)))))
    torch.testing.assert_close(head(x), (head.fc_cls(hidden), head.fc_reg(hidden)))


def test_a_head_has_the_same_call_sites_at_every_level():
    init_default_scope('mmdet')
    head = MODELS.build(
        dict(
            type='RepPointsHead',
            num_classes=3,
            in_channels=8,
            feat_channels=8,
            point_feat_channels=8,
            stacked_convs=1,
            loss_cls=dict(type='FocalLoss'),
        )
    )
    call_sites = find_call_sites(head, ['relu'])['relu']
    assert [call_site.layers[-1] for call_site in call_sites] == [
        head.reppoints_pts_init_conv,
        head.reppoints_cls_conv,
        head.reppoints_pts_refine_conv,
    ]
    assert len(swap_activations(head, dict(ReLU=dict(type='AGLU')), include='relu').relu) == 3


@pytest.mark.parametrize(
    'cfg, name, counts',
    [
        (dict(type='Res2Net', depth=50, scales=4, base_width=4, base_channels=8, **ONE_STAGE), 'layer1.0', [5]),
        (dict(type='ResNeSt', depth=50, base_channels=8, **ONE_STAGE), 'layer1.0', [2]),
        (dict(type='ResNeSt', depth=50, base_channels=8, **ONE_STAGE), 'layer1.0.conv2', [2]),
        (
            dict(
                type='TridentResNet',
                depth=50,
                num_branch=3,
                test_branch_idx=-1,
                trident_dilations=(1, 2, 3),
                num_stages=3,
                strides=(1, 2, 2),
                dilations=(1, 1, 1),
                out_indices=(2,),
                base_channels=8,
            ),
            'layer3.1',
            [3],
        ),
        (dict(type='FCNMaskHead', in_channels=8, conv_out_channels=8), '', [1]),
        (
            dict(
                type='FCNMaskHead',
                in_channels=8,
                conv_out_channels=8,
                upsample_cfg=dict(type='nearest', scale_factor=2),
            ),
            '',
            [0],
        ),
        (dict(type='RetinaHead', num_classes=3, in_channels=8, feat_channels=8), '', [0]),
        (
            dict(type='FoveaHead', num_classes=3, in_channels=8, feat_channels=8, with_deform=True),
            'feature_adaption',
            [1],
        ),
    ],
    ids=lambda value: value.get('type') if isinstance(value, dict) else str(value),
)
def test_number_of_call_sites(cfg, name, counts):
    init_default_scope('mmdet')
    owner = MODELS.build(cfg).get_submodule(name)
    assert [len(call_sites) for call_sites in find_call_sites(owner, ['relu']).values()] == counts


def test_finding_call_sites_leaves_the_module_unchanged():
    block = bottleneck().train()
    block.norm2.eval()
    before, modes = copy.deepcopy(block.state_dict()), [part.training for part in block.modules()]
    relu = block.relu
    assert len(find_call_sites(block, ['relu'])['relu']) == 3
    assert block.relu is relu and [part.training for part in block.modules()] == modes
    assert not any(part._forward_hooks for part in block.modules())
    assert all(torch.equal(value, before[key]) for key, value in block.state_dict().items())


def test_call_sites_before_all_layers_are_unresolved():
    class PreActivation(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.conv2, self.relu = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.ReLU()

        def forward(self, x):
            return self.conv2(self.relu(self.conv1(self.relu(x))))

    with pytest.raises(SwapError) as error:
        swap_activations(PreActivation(), AGLU)
    assert (error.value.code, error.value.names) == ('unknown-call-sites', ['relu'])
    assert '(PreActivation.relu: it is called before any layer)' in str(error.value)


class WeightNormed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.silu = torch.nn.utils.weight_norm(nn.Conv2d(4, 4, 1)), nn.ReLU(), nn.SiLU()

    def forward(self, x):
        return self.silu(self.conv(self.silu(self.relu(self.conv(x)))))


@pytest.mark.filterwarnings('ignore:.*weight_norm')
def test_a_module_that_cannot_be_copied_is_judged_by_its_source():
    assert type(swap_activations(WeightNormed(), dict(ReLU=dict(type='AGLU'))).relu).__name__ == 'AGLU'
    with pytest.raises(SwapError) as error:
        swap_activations(WeightNormed(), dict(SiLU=dict(type='AGLU')))
    assert (error.value.code, error.value.names) == ('unknown-call-sites', ['silu'])


@pytest.mark.parametrize(
    'change',
    [
        copy.deepcopy,
        lambda block: pickle.loads(pickle.dumps(block)),
        lambda block: fuse_conv_bn(copy.deepcopy(block)),
        lambda block: torch.jit.trace(block, torch.ones(1, 16, 3, 3, dtype=torch.float64)),
        pytest.param(lambda block: torch.compile(block, backend='eager', fullgraph=True), marks=compiles_in_one_graph),
    ],
    ids=['copy', 'pickle', 'fold the norms', 'trace', 'compile'],
)
def test_call_sites_survive_copies_and_transformations(change):
    block = swap_activations(bottleneck(), AGLU).double()
    changed, x = change(block), torch.randn(2, 16, 4, 4, dtype=torch.float64)
    want = block(x)
    block.relu.current = 0  # must not affect a copy
    torch.testing.assert_close(changed(x), want)


class Block(nn.Module):
    """Two convolutions, two norms and one ReLU, with the given forward."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.n1, self.n2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.c1, self.c2 = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.relu, self.run = nn.ReLU(), forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.run(self, x)


def norm_alone(self, x):
    return self.c2(self.relu(self.n2(self.relu(self.n1(self.c1(x))))))


def test_a_call_site_whose_layers_were_all_replaced_raises():
    block = swap_activations(Block(norm_alone), AGLU).eval()
    x = torch.randn(1, 4, 3, 3)
    z = aglu(block.relu[0], block.n1(block.c1(x)))
    torch.testing.assert_close(block(x), block.c2(aglu(block.relu[1], block.n2(z))))
    synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(block)
    for _ in range(2):
        with pytest.raises(RuntimeError, match='none of its layers ran before, which are n1, n2; if one was replaced'):
            synchronized(x)


def again(self, x):
    x = self.relu(self.c1(x))
    return self.relu(self.c2(self.relu(-x)))


def test_calls_with_no_layer_in_between_share_a_call_site():
    block = swap_activations(Block(again), AGLU)
    x, (first, second) = torch.randn(1, 4, 3, 3), block.relu
    want = aglu(second, block.c2(aglu(first, -aglu(first, block.c1(x)))))
    for _ in range(2):
        torch.testing.assert_close(block(x), want)
    assert 'relu): CallSiteDispatcher(\n    0 after c1\n    1 after c2\n    (0): AGLU' in repr(block)


def in_training(self, x):
    y = self.relu(self.c1(x))
    return (y, self.relu(self.n2(self.c2(torch.nn.functional.dropout(x))))) if self.training else y


def test_a_call_in_training_only_has_its_own_call_site():
    block = Block(in_training)
    state, random = copy.deepcopy(block.state_dict()), torch.get_rng_state()
    assert [call_site.layer_name for call_site in find_call_sites(block, ['relu'])['relu']] == ['c1', 'n2']
    assert all(torch.equal(value, state[key]) for key, value in block.state_dict().items()), 'running statistics stay'
    assert torch.equal(random, torch.get_rng_state())
    block = swap_activations(block, AGLU).train()
    x = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(block(x)[0], aglu(block.relu[0], block.c1(x)))
    sum(out.square().sum() for out in block(x)).backward()
    assert all(act.kappa.grad.abs() > 0 for act in block.relu)


def channels_last(self, x):
    return self.relu(self.norm(self.fc(x.permute(0, 2, 3, 1))))


@pytest.mark.parametrize(
    'forward, parts, count',
    [
        (lambda self, x: self.relu(self.n1(self.c1(x))), {}, 4),
        (lambda self, x: self.relu(torch.cat([self.c1(x), self.c2(x)], 1)), {}, 8),
        (lambda self, x: self.relu(self.norm(self.c1(x))), dict(norm=nn.GroupNorm(2, 4)), 4),
        (lambda self, x: self.relu(self.c1(x).permute(0, 2, 3, 1)), {}, None),
        (channels_last, dict(fc=nn.Linear(4, 6), norm=nn.LayerNorm(6)), None),
        (channels_last, dict(fc=nn.Linear(4, 7), norm=nn.LayerNorm(7)), None),  # 7 is the height of a guessed map
        (channels_last, dict(fc=nn.Linear(4, 6), norm=nn.Identity()), None),
        (lambda self, x: self.relu(self.fc(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)), dict(fc=nn.Linear(4, 6)), 6),
        (lambda self, x: self.relu(self.conv1d(x.flatten(2))), dict(conv1d=nn.Conv1d(4, 5, 1)), 5),
        (lambda self, x: self.relu(self.fc(x.mean((2, 3)))), dict(fc=nn.Linear(4, 6)), 6),
    ],
    ids=[
        'norm',
        'concatenation',
        'group norm',
        'permuted',
        'layer norm',
        'as many as rows',
        'linear',
        'permuted back',
        'Conv1d',
        'vectors',
    ],
)
def test_num_features_is_the_size_of_dimension_1_if_the_channels_are_there(forward, parts, count):
    (call_site,) = find_call_sites(Block(forward, **parts), ['relu'])['relu']
    assert call_site.num_features == count


@pytest.mark.parametrize(
    'cfg, name, layer_names',
    [
        (
            dict(type='DynamicConv', in_channels=8, feat_channels=4, input_feat_shape=3),
            'activation',
            ['norm_in', 'norm_out', 'fc_norm'],
        ),
        (
            dict(type='MaskIoUHead', num_classes=3, in_channels=8, conv_out_channels=8, fc_out_channels=8, num_convs=2),
            'relu',
            ['convs.0', 'convs.1', 'fcs.0', 'fcs.1'],
        ),
        (
            dict(
                type='DoubleConvFCBBoxHead',
                num_convs=1,
                num_fcs=2,
                in_channels=8,
                conv_out_channels=8,
                fc_out_channels=8,
            ),
            'relu',
            ['fc_branch.0', 'fc_branch.1'],
        ),
        (
            dict(type='ConditionalDETRHead', num_classes=3, embed_dims=8, loss_cls=dict(type='FocalLoss')),
            'activate',
            ['reg_ffn.layers.1'],
        ),
        (
            dict(
                type='SABLHead',
                num_classes=3,
                cls_in_channels=8,
                reg_in_channels=8,
                cls_out_channels=8,
                reg_offset_out_channels=8,
                reg_cls_out_channels=8,
                num_cls_fcs=1,
            ),
            'relu',
            ['upsample_x', 'upsample_y', 'cls_fcs.0'],
        ),
        (
            dict(
                type='DetectoRS_ResNet',
                depth=50,
                base_channels=4,
                conv_cfg=dict(type='ConvAWS'),
                output_img=True,
                sac=dict(type='SAC', use_deform=True),
                stage_with_sac=(False, True, True, True),
            ),
            'relu',
            ['bn1'],
        ),
    ],
    ids=lambda value: value.get('type') if isinstance(value, dict) else '',
)
def test_modules_with_unusual_inputs_are_resolved(cfg, name, layer_names):
    init_default_scope('mmdet')
    call_sites = find_call_sites(MODELS.build(cfg), [name])[name]
    assert [call_site.layer_name for call_site in call_sites] == layer_names

"""Stock models with other activations: same names and weights, and same results with the same activations."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmcv.cnn.bricks.transformer import FFN
from mmdet.models import CSPNeXtPAFPN, FasterRCNN, ResNet, RPNHead
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from torch import nn

from apa_mmdet.models.activations import AGLU, AconC
from apa_mmdet.models.surgery import SwapError, swap_activations
from apa_mmdet.models.surgery.call_sites import CallSiteDispatcher

TO_AGLU = dict(type='AGLU')
SILU = dict(type='AGLU', lambda_init=(1, 1), kappa_init=(1, 1))
TWO_STAGES = dict(num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(0, 1))
RESNET = dict(type='ResNet', depth=50, base_channels=4, norm_eval=False, **TWO_STAGES)
BRANCHES = [
    dict(
        num_modules=1,
        num_branches=n,
        block='BASIC' if n > 1 else 'BOTTLENECK',
        num_blocks=(1,) * n,
        num_channels=(4, 8, 16, 32)[:n],
    )
    for n in (1, 2, 3, 4)
]
PARTS = {  # config, type of its activations, shape of its input
    'ResNet': (RESNET, 'ReLU', (2, 3, 32, 32)),
    'ResNet with_cp': (dict(RESNET, with_cp=True), 'ReLU', (2, 3, 32, 32)),
    'ResNet deep stem': (dict(RESNET, depth=18, deep_stem=True), 'ReLU', (2, 3, 32, 32)),
    'Res2Net': (dict(type='Res2Net', depth=50, base_width=4, base_channels=8, **TWO_STAGES), 'ReLU', (2, 3, 32, 32)),
    'ResNeSt': (dict(type='ResNeSt', depth=50, base_channels=8, **TWO_STAGES), 'ReLU', (2, 3, 32, 32)),
    'HRNet': (dict(type='HRNet', extra={f'stage{i + 1}': b for i, b in enumerate(BRANCHES)}), 'ReLU', (2, 3, 64, 64)),
    'CSPNeXt': (dict(type='CSPNeXt', deepen_factor=0.2, widen_factor=0.125), 'SiLU', (2, 3, 64, 64)),
    'Swin': (
        dict(type='SwinTransformer', embed_dims=8, depths=(1, 1), num_heads=(1, 1), strides=(4, 2), out_indices=(1,)),
        'GELU',
        (2, 3, 56, 56),
    ),
    'box head': (
        dict(type='Shared4Conv1FCBBoxHead', in_channels=4, conv_out_channels=4, fc_out_channels=8, roi_feat_size=3),
        'ReLU',
        (5, 4, 3, 3),
    ),
    'mask head': (dict(type='FCNMaskHead', in_channels=4, conv_out_channels=4), 'ReLU', (5, 4, 14, 14)),
    'neck': (
        dict(type='CSPNeXtPAFPN', in_channels=[4, 4, 4], out_channels=4, num_csp_blocks=1, act_cfg=dict(type='SiLU')),
        'SiLU',
        (2, 4, 16, 16),
    ),
}
every_part = pytest.mark.parametrize('cfg, kind, shape', PARTS.values(), ids=PARTS.keys())


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


@pytest.fixture
def log_lines(monkeypatch):
    lines = []
    for level in ('info', 'warning'):
        monkeypatch.setattr(MMLogger.get_current_instance(), level, lines.append)
    return lines


def build(cfg, **kwargs):
    """The stock module and the swapped one, with the same weights but for the activations."""
    stock = MODELS.build(cfg)
    swapped = MODELS.build(dict(type='SwapActivations', module=copy.deepcopy(cfg), **kwargs))
    result = swapped.load_state_dict(stock.state_dict(), strict=False)
    return stock, swapped, result


def outputs(module, x):
    if isinstance(module, CSPNeXtPAFPN):  # takes a pyramid
        x = tuple(F.avg_pool2d(x, 2**level) for level in range(len(module.in_channels)))
    out = module(x)
    return [out] if torch.is_tensor(out) else list(out)


@every_part
def test_weights_of_the_stock_model_load(cfg, kind, shape):
    stock, swapped, result = build(cfg, swap={kind: TO_AGLU})
    assert type(swapped) is type(stock) and not result.unexpected_keys and result.missing_keys
    new = {
        f'{name}.{key}'
        for name, part in swapped.named_modules()
        if isinstance(part, AGLU)
        for key in ('lambda_', 'kappa')
    }
    assert set(result.missing_keys) == new and set(swapped.state_dict()) == new | set(stock.state_dict())


@every_part
def test_swapping_for_the_same_type_is_bitwise_equal(cfg, kind, shape):
    stock, swapped, result = build(cfg, swap={kind: dict(type=kind)})
    assert not result.missing_keys
    x = torch.randn(shape)
    found = []
    for module in (stock, swapped):
        torch.manual_seed(0)  # Swin drops paths
        module.train()
        module.zero_grad()
        y = x.clone().requires_grad_()
        outs = outputs(module, y)
        sum(out.sin().sum() for out in outs).backward()
        found.append([y.grad, *outs, *(p.grad for p in module.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) and all(torch.equal(a, b) for a, b in zip(*found))


@pytest.mark.parametrize('name', ['ResNet', 'HRNet', 'CSPNeXt', 'Swin', 'box head'])
def test_aglu_of_ones_is_silu(name):
    cfg, kind, shape = PARTS[name]
    stock, swapped, _ = build(cfg, swap={kind: SILU})
    for owner in list(stock.modules()):
        for name, part in owner.named_children():
            if type(part).__name__ == kind:
                setattr(owner, name, nn.SiLU())
    x = torch.randn(shape)
    stock.eval(), swapped.eval()
    for got, want in zip(outputs(swapped, x), outputs(stock, x)):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_every_call_site_has_its_own_trained_activation():
    net = MODELS.build(dict(type='SwapActivations', module=RESNET, swap=dict(ReLU=TO_AGLU)))
    acts = [part for part in net.modules() if isinstance(part, AGLU)]
    assert len(acts) == len({act.kappa.item() for act in acts}) == 1 + 3 * 7
    net.train()
    sum(out.square().sum() for out in net(torch.randn(2, 3, 64, 64))).backward()
    assert all(act.kappa.grad.abs() > 0 and act.lambda_.grad.abs() > 0 for act in acts)


def test_a_parent_config_may_pass_further_arguments():
    cfg = Config.fromstring("_base_ = 'mmdet::_base_/models/faster-rcnn_r50_fpn.py'", '.py')
    cfg.merge_from_dict(
        dict(
            model=dict(
                backbone=dict(
                    type='SwapActivations', module=dict(type='ResNet'), swap=dict(ReLU=TO_AGLU), init_cfg=None
                ),
                rpn_head=dict(
                    num_classes=1,
                    num_convs=2,
                    type='SwapActivations',
                    module=dict(type='RPNHead'),
                    swap=dict(ReLU=TO_AGLU),
                ),
            )
        )
    )
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert type(model.backbone) is ResNet and type(model.rpn_head) is RPNHead
    assert (
        model.rpn_head.train_cfg == cfg.model.train_cfg.rpn and not model.backbone.layer1[0].relu[2].kappa.requires_grad
    )
    cfg.model.update(
        type='SwapActivations', module=dict(type='FasterRCNN'), swap=dict(AGLU=dict(type='SiLU'), ReLU=TO_AGLU)
    )
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert type(model) is FasterRCNN and type(model.backbone.relu) is nn.SiLU
    assert all(type(act) is AGLU for act in model.roi_head.bbox_head.relu) and len(model.roi_head.bbox_head.relu) == 2


@pytest.mark.parametrize(
    'include, exclude, names',
    [
        ('layer1.*', (), {'layer1.0.relu.0', 'layer1.0.relu.1', 'layer1.1.relu.0', 'layer1.1.relu.1'}),
        (['layer1.0.relu', 'relu'], (), {'relu', 'layer1.0.relu.0', 'layer1.0.relu.1'}),
        (['layer[12].0.*'], '*.relu.1', {'layer1.0.relu.0', 'layer2.0.relu.0'}),
        ('*', ['layer*'], {'relu'}),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),  # equal in every process
)
def test_include_and_exclude_select_call_sites_by_name(include, exclude, names):
    stock, net, _ = build(dict(RESNET, depth=18), swap=dict(ReLU=TO_AGLU), include=include, exclude=exclude)
    assert {name for name, part in net.named_modules() if isinstance(part, AGLU)} == names
    others = [
        act
        for part in net.modules()
        if isinstance(part, CallSiteDispatcher)
        for act in part
        if not isinstance(act, AGLU)
    ]
    assert len(others) == 2 * len({name[:8] for name in names - {'relu'}}) - len(names - {'relu'})
    assert all(isinstance(act, nn.ReLU) for act in others)
    net(torch.randn(1, 3, 32, 32))


def test_num_features_comes_from_the_call_site():
    net = MODELS.build(
        dict(
            RESNET,
            type='SwapActivations',
            module=dict(type='ResNet'),
            swap=dict(ReLU=dict(type='AconC')),
            include='*.relu.1',
        )
    )  # the advice of the ACON paper: after each 3x3
    acts = {name: part.num_features for name, part in net.named_modules() if isinstance(part, AconC)}
    assert len(acts) == 7 and acts == {
        name: net.get_submodule(name.removesuffix('.relu.1')).conv2.out_channels for name in acts
    }
    net(torch.randn(2, 3, 32, 32))

    layer = swap_activations(
        ConvModule(3, 7, 1, norm_cfg=dict(type='BN')), dict(ReLU=dict(type='AGLU', num_features=None))
    )
    assert layer.activate.num_features == 7
    head = MODELS.build(PARTS['box head'][0])
    swap_activations(head, dict(ReLU=dict(type='AGLU', num_features=None)))
    assert (head.shared_convs[0].activate.num_features, head.relu.num_features) == (4, 8)
    head(torch.randn(5, 4, 3, 3))


def test_tokens_need_num_features_to_be_given():
    with pytest.raises(SwapError) as error:
        swap_activations(FFN(8, 16), dict(ReLU=dict(type='AconC')))
    assert (error.value.code, error.value.names) == ('unknown-channels', ['layers.0.1'])
    ffn = swap_activations(FFN(8, 16), dict(ReLU=dict(type='AconC', num_features=1)))
    assert ffn(torch.randn(2, 5, 8)).shape == (2, 5, 8) and ffn.layers[0][1].num_features == 1


def test_activations_of_frozen_stages_are_frozen():
    net = MODELS.build(dict(type='SwapActivations', module=dict(RESNET, frozen_stages=1), swap=dict(ReLU=TO_AGLU)))
    frozen = {name.rsplit('.', 1)[0] for name, p in net.named_parameters() if 'kappa' in name and not p.requires_grad}
    assert frozen == {'relu', *(f'layer1.{block}.relu.{i}' for block in range(3) for i in range(3))}
    net.train()
    assert frozen == {
        name.rsplit('.', 1)[0] for name, p in net.named_parameters() if 'kappa' in name and not p.requires_grad
    }
    net(torch.randn(2, 3, 64, 64))[1].square().sum().backward()
    assert net.relu.kappa.grad is None


def test_norms_within_frozen_activations_stay_in_eval_mode():
    net = MODELS.build(
        dict(
            type='SwapActivations',
            module=dict(RESNET, depth=18, frozen_stages=1),
            swap=dict(ReLU=dict(type='MetaAconC')),
        )
    )
    for same in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        same.train()
        before = copy.deepcopy(same.state_dict())
        same(torch.randn(2, 3, 32, 32))
        moved = {name for name, tensor in same.state_dict().items() if not torch.equal(tensor, before[name])}
        means = {name for name in before if name.endswith('running_mean')}
        frozen = {name for name in means if name.startswith(('bn1.', 'relu.', 'layer1.'))}
        assert moved & means == means - frozen and sum('relu' in name for name in frozen) == 2 * (1 + 2 * 2)


def test_modules_that_shared_an_activation_get_one_each():
    relu = nn.ReLU(inplace=True)
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1), relu), nn.Sequential(nn.Conv2d(3, 3, 1), relu, relu))
    swap_activations(net, dict(ReLU=TO_AGLU))
    assert len({id(act) for act in (net[0][1], net[1][1], net[1][2])}) == 3


def test_an_out_of_place_activation_is_replaced_by_an_out_of_place_one():
    net = swap_activations(
        nn.Sequential(nn.GELU(), nn.ReLU(True)), dict(GELU=dict(type='ReLU'), ReLU=dict(type='SiLU'))
    )
    assert (net[0].inplace, net[1].inplace) == (False, True)
    assert swap_activations(nn.Sequential(nn.GELU()), dict(GELU=dict(type='ReLU', inplace=True)))[0].inplace


def test_norms_may_be_converted_to_sync_bn_afterwards():
    net = MODELS.build(dict(type='SwapActivations', module=RESNET, swap=dict(ReLU=TO_AGLU)))
    net.eval()
    x = torch.randn(1, 3, 64, 64)
    want = net(x)
    net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    net.eval()  # torch 2.1 leaves the new ones in training mode
    for got, expected in zip(net(x), want):
        assert torch.equal(got, expected)


def test_activations_that_are_not_swapped_are_logged(log_lines):
    head = dict(type='RetinaHead', num_classes=3, in_channels=8, feat_channels=8)
    MODELS.build(dict(head, type='SwapActivations', module=dict(type='RetinaHead'), swap=dict(ReLU=TO_AGLU)))
    assert log_lines == ['SwapActivations: swapped at 8 call sites of RetinaHead; never called, so not swapped: relu']
    log_lines.clear()
    net = nn.ModuleDict(
        dict(rpn=RPNHead(8, 1, num_convs=2), made=type('Made', (nn.Module,), dict(__module__='nowhere'))())
    )
    swap_activations(net, dict(ReLU=TO_AGLU))
    assert log_lines[1:] == [
        'SwapActivations: ReLU is called as a function, and not swapped, in RPNHead.forward_single',
        'SwapActivations: ReLU may be called as a function, and not swapped, in Made, whose source code is unknown',
    ]
    log_lines.clear()
    net = nn.ModuleDict(dict(rpn=RPNHead(8, 1, num_convs=2), other=ConvModule(3, 3, 1)))
    swap_activations(net, dict(ReLU=TO_AGLU), exclude='rpn.*')
    assert len(log_lines) == 1


@pytest.mark.parametrize(
    'include, exclude, reported',
    [
        ('*.activate', (), True),
        ('rpn.rpn_conv.*.activate', (), True),
        (['other.*', 'rpn.*'], (), True),
        ('other.*', (), False),
        ('other.activate', (), False),
        ('*.activate', 'rpn.*', False),
    ],
)
def test_functional_calls_are_logged_only_in_selected_parts(include, exclude, reported, log_lines):
    net = nn.ModuleDict(dict(rpn=RPNHead(8, 1, num_convs=2), other=ConvModule(3, 3, 1)))
    swap_activations(net, dict(ReLU=TO_AGLU), include, exclude)
    assert len(log_lines[1:]) == reported


@pytest.mark.parametrize(
    'container',
    [nn.ModuleList([nn.ReLU()]), nn.ModuleDict(dict(a=nn.ReLU())), nn.Sequential(nn.ReLU(), nn.Dropout())],
    ids=lambda container: type(container).__name__,
)
def test_an_activation_in_a_container_has_one_call_site(container):
    net = swap_activations(nn.Sequential(container), dict(ReLU=TO_AGLU))
    assert [type(act) for act in net.modules()].count(AGLU) == 1


def test_nested_swaps_give_one_type_two_new_activations():
    inner = dict(type='SwapActivations', module=RESNET, swap=dict(ReLU=dict(type='AconC')), include='*.relu.1')
    net = MODELS.build(dict(type='SwapActivations', module=inner, swap=dict(ReLU=TO_AGLU), exclude='layer2.0.relu'))
    for name, part in net.named_modules():
        if isinstance(part, CallSiteDispatcher):
            others = nn.ReLU if name == 'layer2.0.relu' else AGLU
            assert [type(act) for act in part] == [others, AconC, others], name
    assert type(net.relu) is AGLU
    net.train()
    sum(out.square().sum() for out in net(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad.abs().sum() > 0 for name, p in net.named_parameters() if '.relu.' in name)


def test_beta_is_still_1_after_the_xavier_of_a_transformer():
    cfg = Config.fromstring("_base_ = 'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py'", '.py')
    cfg.merge_from_dict(
        dict(
            model=dict(
                type='SwapActivations',
                module=dict(type='DeformableDETR'),
                swap=dict(ReLU=dict(type='AconC', num_features=1)),
                include=['encoder.*', 'decoder.*'],
                backbone=dict(depth=18, base_channels=4, init_cfg=None),
                neck=dict(in_channels=[8, 16, 32]),
                encoder=dict(num_layers=1),
                decoder=dict(num_layers=1),
            )
        )
    )
    model = MODELS.build(cfg.model)
    acts = [part for part in model.modules() if isinstance(part, AconC)]
    before = [act.p1.clone() for act in acts]
    model.init_weights()
    assert len(acts) == 2 and all(act.beta == 1 and torch.equal(act.p1, p1) for act, p1 in zip(acts, before))


def test_a_convnext_has_one_call_site_for_each_block():
    models = pytest.importorskip('mmpretrain.models')
    net = models.ConvNeXt(arch=dict(depths=[1, 1], channels=[8, 16]), out_indices=1)
    acts = [part for part in swap_activations(net, dict(GELU=TO_AGLU)).modules() if isinstance(part, AGLU)]
    net.train()
    net(torch.randn(2, 3, 64, 64))[0].square().sum().backward()
    assert len(acts) == 2 and all(act.kappa.grad.abs() > 0 for act in acts)

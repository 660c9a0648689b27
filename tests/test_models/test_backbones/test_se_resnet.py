"""SEResNet against recorded figures of the official network, and with all options of mmdet's ResNet."""

import copy
import pickle
from collections import Counter

import pytest
import torch
from helpers.memory import saved_bytes
from helpers.recordings import image, load, value
from helpers.torch_features import compiles_in_one_graph, export_onnx, needs_dynamo_exporter
from helpers.traced_graphs import foreign_operators, saved_and_loaded
from mmcv.cnn.utils import fuse_conv_bn
from mmdet.registry import MODELS
from torch import nn

from apa_mmdet.checkpoint.compare import WrongWeights
from apa_mmdet.checkpoint.io import BadCheckpoint
from apa_mmdet.models.activations import AGLU, APA
from apa_mmdet.models.backbones import SEResNet
from apa_mmdet.models.layers import CBAM, SELayer
from apa_mmdet.structures.valid_region import mark_valid_region

BASELINE = dict(act_cfg=dict(type='ReLU'), se_cfg=dict(norm_cfg=None, gate_cfg=dict(type='Sigmoid'), dropout=0.0))


SMALL = dict(base_channels=16, stem_channels=16)


def official_name(key):
    """Our name of a parameter → its name in the official weights."""
    for ours, theirs in (
        ('act_stem.', 'relu.'),
        ('act_conv1.', 'unirect1.'),
        ('act_conv2.', 'unirect2.'),
        ('act_out.', 'unirect3.'),
        ('se.fc1.', 'se.excitation.0.'),
        ('se.fc2.', 'se.excitation.2.'),
        ('se.gate.', 'se.uniact.'),
    ):
        key = key.replace(ours, theirs)
    return key[: -len('lambda_')] + 'lambda_param' if key.endswith('lambda_') else key.replace('.kappa', '.kappa_param')


@pytest.mark.parametrize(
    'name, depth, kwargs',
    [('se_resnet50', 50, {}), ('se_resnet101', 101, {}), ('se_resnet50_relu_sigmoid', 50, BASELINE)],
)
def test_features_and_gradients_match_the_recorded_figures(name, depth, kwargs):
    recorded = load(f'{name}.npz')
    net = SEResNet(depth, **kwargs).eval()
    net.load_state_dict(
        {
            key: torch.from_numpy(value(official_name(key), tuple(tensor.shape)))
            for key, tensor in net.state_dict().items()
        }
    )
    x = torch.from_numpy(image((2, 3, 64, 96))).requires_grad_()
    features = net(x)
    for i, feature in enumerate(features):
        sampled = feature[:, :, ::4, ::4] if i < 2 else feature
        want = torch.from_numpy(recorded[f'feat{i}'])
        torch.testing.assert_close(sampled, want, rtol=1e-4, atol=1e-4 * want.abs().max().item())
    if 'grad_input' not in recorded:
        return
    weights = recorded_weights(features)
    sum((f * w).mean() for f, w in zip(features, weights)).backward()
    want = torch.from_numpy(recorded['grad_input'])
    torch.testing.assert_close(x.grad, want, rtol=1e-3, atol=1e-4 * want.abs().max().item())
    sums = {official_name(k): p.grad.double().sum().item() for k, p in net.named_parameters()}
    scale = abs(recorded['param_grads']).max()
    for key, want in zip(recorded['param_grad_names'], recorded['param_grads']):
        assert sums[str(key)] == pytest.approx(want, rel=2e-3, abs=1e-5 * scale), key


def recorded_weights(features):
    import numpy as np

    return [
        torch.from_numpy(np.random.default_rng([77, i, 0]).normal(0, 1, f.shape).astype(np.float32))
        for i, f in enumerate(features)
    ]


@pytest.mark.parametrize(
    'depth, kwargs',
    [
        *((depth, {}) for depth in (18, 34, 50, 101, 152)),
        (18, BASELINE),
        (18, dict(se_cfg=None)),
        (50, dict(act_cfg=dict(type='AGLU', num_features=None))),
    ],
    ids=str,
)
def test_names_and_shapes_match_mmdets_resnet(depth, kwargs):
    with torch.device('meta'):
        ours, theirs = SEResNet(depth, **kwargs), MODELS.build(dict(type='mmdet.ResNet', depth=depth))
    x = torch.empty(2, 3, 64, 96, device='meta')
    assert [f.shape for f in ours(x)] == [f.shape for f in theirs(x)]
    # all but activations and attention has mmdet's names and shapes, so its checkpoints load
    slots = ('.se.', 'act_')
    shapes = {k: v.shape for k, v in ours.state_dict().items() if not any(s in k for s in slots)}
    assert shapes == {k: v.shape for k, v in theirs.state_dict().items()}


def test_depth_152_trains():
    net = SEResNet(152, base_channels=16).train()
    features = net(torch.randn(1, 3, 64, 64))
    sum(f.square().mean() for f in features).backward()
    assert [tuple(f.shape) for f in features] == [(1, 64 * 2**i, 16 >> i, 16 >> i) for i in range(4)]
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


def test_with_relu_and_without_attention_it_equals_mmdets_resnet():
    ours, theirs = (
        SEResNet(50, act_cfg=dict(type='ReLU'), se_cfg=None),
        MODELS.build(dict(type='mmdet.ResNet', depth=50)),
    )
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 3, 64, 64)
    theirs.eval()
    for a, b in zip(ours.eval()(x), theirs(x)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('depth, sites', [(18, ('conv1', 'out')), (50, ('conv1', 'conv2', 'out'))])
def test_every_site_has_a_module_of_its_own(depth, sites):
    net = SEResNet(depth)
    names = [name for name, module in net.named_modules() if isinstance(module, AGLU)]
    blocks = [f'layer{s + 1}.{b}' for s, n in enumerate(net.stage_blocks) for b in range(n)]
    assert sorted(names) == sorted(['act_stem', *(f'{b}.act_{s}' for b in blocks for s in sites)])
    assert len({id(m) for m in net.modules() if isinstance(m, AGLU)}) == len(names)
    assert sum(isinstance(m, APA) for m in net.modules()) == len(blocks)
    assert not [name for name, m in net.named_modules() if isinstance(m, nn.ReLU) and '.se.' not in name]


def test_act_cfg_per_site():
    net = SEResNet(50, act_cfg=dict(stem=dict(type='ReLU'), conv2=dict(type='AGLU', num_features=None)))
    block = net.layer2[0]
    assert isinstance(net.act_stem, nn.ReLU)
    assert block.act_conv1.num_features == block.act_out.num_features == 1
    assert block.act_conv2.num_features == 128


def test_frozen_stages_freeze_the_stem_with_its_activation():
    net = SEResNet(18, frozen_stages=1).train()
    frozen = {n for n, p in net.named_parameters() if not p.requires_grad}
    assert {'act_stem.lambda_', 'act_stem.kappa', 'layer1.0.act_out.kappa', 'layer1.0.se.gate.lambda_'} <= frozen
    assert not [n for n in frozen if n.startswith(('layer2', 'layer3', 'layer4'))]
    assert not net.layer1.training and net.layer2.training
    below = net.layer1(net._stem(torch.randn(1, 3, 32, 32)))
    assert not below.requires_grad, 'the frozen part has a graph'
    assert not [n for n, p in SEResNet(18, frozen_stages=-1).named_parameters() if not p.requires_grad]


def test_norm_eval_keeps_norms_in_eval_mode():
    assert not any(m.training for m in SEResNet(18).train().modules() if isinstance(m, nn.BatchNorm2d))
    assert all(m.training for m in SEResNet(18, norm_eval=False).train().modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize(
    'frozen_stages, recompute_act, most', [(1, False, 240), (-1, False, 430), (1, True, 150), (-1, True, 240)]
)
def test_memory_kept_for_backward_is_bounded(frozen_stages, recompute_act, most):
    net = SEResNet(50, frozen_stages=frozen_stages, recompute_act=recompute_act).train()
    x = torch.randn(1, 3, 512, 512)
    assert saved_bytes(lambda: net(x), [*net.parameters(), *net.buffers()]) / 2**20 <= most


def test_nothing_below_the_first_trained_stage_is_kept():
    net = SEResNet(50, frozen_stages=1).train()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        below = net.layer1(net._stem(torch.randn(1, 3, 64, 64)))
    assert not kept and not below.requires_grad


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(depth=50),
        dict(depth=18),
        dict(depth=50, deep_stem=True),
        dict(depth=50, avg_down=True),
        dict(depth=50, norm_eval=False),
        dict(depth=50, frozen_stages=1),
        dict(depth=50, act_cfg=dict(conv2=dict(type='ReLU'))),
        dict(depth=18, se_cfg=dict(type='CBAM')),
    ],
    ids=str,
)
def test_recompute_act_is_bitwise_equal(kwargs):
    results = []
    for recompute_act in (False, True):
        torch.manual_seed(0)
        net = SEResNet(**SMALL, **kwargs, recompute_act=recompute_act).train()
        features = net(torch.randn(1, 3, 64, 64))
        sum(f.square().mean() for f in features).backward()
        results.append([*features, *(p.grad for p in net.parameters() if p.requires_grad)])
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_recompute_act_and_with_cp_exclude_each_other():
    with pytest.raises(ValueError, match='SEResNet: with_cp and recompute_act exclude each other'):
        SEResNet(18, with_cp=True, recompute_act=True)


def test_recompute_act_with_a_hook_that_changes_a_feature_in_place():
    results = []
    for recompute_act in (False, True):
        torch.manual_seed(0)
        net = SEResNet(18, recompute_act=recompute_act, se_cfg=dict(dropout=0.0)).train()
        net.layer2[0].register_forward_hook(lambda module, args, out: out.mul_(0.5))
        sum(f.square().mean() for f in net(torch.randn(1, 3, 64, 64))).backward()
        results.append([p.grad for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results))


@compiles_in_one_graph
@pytest.mark.parametrize('recompute_act', [False, True])
def test_compiles_without_graph_breaks(recompute_act):
    two_stages = dict(num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(0, 1))
    net = SEResNet(18, frozen_stages=1, recompute_act=recompute_act, se_cfg=dict(dropout=0.0), **two_stages).train()
    x = torch.randn(1, 3, 64, 64)
    torch._dynamo.reset()
    compiled = torch.compile(net, backend='aot_eager', fullgraph=True)
    for got, want in zip(compiled(x), net(x)):
        torch.testing.assert_close(got, want)
    sum(f.mean() for f in compiled(x)).backward()
    assert net.layer2[0].act_out.lambda_.grad.isfinite().all()


@pytest.mark.parametrize(
    'change',
    [
        pytest.param(lambda net, x: torch.export.export(net, (x,)).module(), marks=compiles_in_one_graph),
        lambda net, x: copy.deepcopy(net),
        lambda net, x: pickle.loads(pickle.dumps(net)),
    ],
    ids=['export', 'copy', 'pickle'],
)
def test_changed_into_another_form_it_keeps_the_features(change):
    net = SEResNet(18, **SMALL).eval()
    x = torch.randn(1, 3, 64, 64)
    for got, want in zip(change(net, x)(x), net(x)):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize('dynamo', [False, pytest.param(True, marks=needs_dynamo_exporter)])
def test_onnx_export_matches_in_onnxruntime(dynamo, tmp_path):
    import onnx
    import onnxruntime

    net = SEResNet(18, act_cfg=dict(type='AGLU', num_features=None), **SMALL).eval()
    x = torch.randn(1, 3, 64, 64)
    export_onnx(net, (x,), str(tmp_path / 'net.onnx'), dynamo, input_names=['x'])
    assert {node.domain for node in onnx.load(tmp_path / 'net.onnx').graph.node} <= {'', 'ai.onnx'}
    session = onnxruntime.InferenceSession(str(tmp_path / 'net.onnx'))
    for got, want in zip(session.run(None, {'x': x.numpy()}), net(x)):
        torch.testing.assert_close(torch.from_numpy(got), want, rtol=1e-5, atol=1e-5 * want.abs().max().item())


@pytest.mark.parametrize('kwargs', [{}, dict(se_cfg=dict(type='CBAM'), act_cfg=dict(type='MetaAconC'))], ids=str)
def test_a_trace_runs_without_this_package(kwargs):
    two_stages = dict(num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(0, 1))
    net, x = SEResNet(18, **two_stages, **SMALL, **kwargs).eval(), torch.randn(1, 3, 32, 32)
    traced = torch.jit.trace(net, x, check_trace=False)
    assert not foreign_operators(traced)
    other = torch.randn(2, 3, 32, 64)
    with torch.jit.optimized_execution(False):
        for got, want in zip(saved_and_loaded(traced)(other), net(other)):
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5 * want.abs().max().item())


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(depth=18),
        dict(depth=50, act_cfg=dict(type='MetaAconC'), se_cfg=dict(type='CBAM')),
        dict(depth=18, deep_stem=True),
    ],
    ids=str,
)
def test_fuse_conv_bn_of_mmcv_keeps_the_features(kwargs):
    net = randomized(SEResNet(**SMALL, **kwargs)).eval()
    fused = fuse_conv_bn(copy.deepcopy(net))
    assert not any(isinstance(part, nn.BatchNorm2d) for part in fused.modules())
    x = torch.randn(2, 3, 64, 64)
    for got, want in zip(fused(x), net(x)):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * want.abs().max().item())


@pytest.mark.parametrize('recompute_act', [False, True])
def test_distributed_data_parallel_gives_the_same_gradients(recompute_act, tmp_path):
    net = SEResNet(18, frozen_stages=1, recompute_act=recompute_act, se_cfg=dict(dropout=0.0)).train()
    x = torch.randn(2, 3, 64, 64)
    sum(f.mean() for f in net(x)).backward()
    want = [p.grad.clone() for p in net.parameters() if p.requires_grad]
    net.zero_grad()
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(net, find_unused_parameters=True)
        sum(f.mean() for f in parallel(x)).backward()
    finally:
        torch.distributed.destroy_process_group()
    for p, grad in zip((p for p in net.parameters() if p.requires_grad), want):
        torch.testing.assert_close(p.grad, grad)


@pytest.mark.parametrize(
    'depth, se_cfg', [(18, dict(dropout=0.0)), (50, dict(dropout=0.0)), (18, dict(type='CBAM'))], ids=str
)
def test_checkpointing_gives_the_same_gradients(depth, se_cfg):
    torch.manual_seed(0)
    plain = SEResNet(depth, se_cfg=se_cfg, **SMALL).train()
    checkpointed = SEResNet(depth, se_cfg=se_cfg, with_cp=True, **SMALL).train()
    checkpointed.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    grads = [
        torch.autograd.grad(sum(f.square().mean() for f in net(x)), net.parameters()) for net in (plain, checkpointed)
    ]
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(deep_stem=True),
        dict(avg_down=True),
        dict(style='caffe'),
        dict(in_channels=1),
        dict(base_channels=32),
        dict(num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(1,)),
        dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
        dict(norm_cfg=dict(type='GN', num_groups=8)),
        dict(dcn=dict(type='DCNv2', deform_groups=1), stage_with_dcn=(False, True, True, True)),
        dict(
            plugins=[
                dict(
                    cfg=dict(type='ContextBlock', ratio=1 / 16),
                    stages=(False, True, True, True),
                    position='after_conv3',
                ),
                dict(cfg=dict(type='NonLocal2d'), position='after_conv2'),
            ]
        ),
    ],
    ids=lambda kwargs: next(iter(kwargs)),
)
def test_options_of_mmdets_resnet(kwargs):
    net = SEResNet(50, **kwargs).train()
    x = torch.randn(1, kwargs.get('in_channels', 3), 64, 64)
    out = net(x)
    sum(f.float().mean() for f in out).backward()
    without = [n for n, p in net.named_parameters() if p.grad is None]
    assert not without, without
    theirs = MODELS.build(dict(type='mmdet.ResNet', depth=50, **kwargs))
    assert [f.shape for f in theirs(x)] == [f.shape for f in out]


def test_deep_stem_has_three_activations():
    net = SEResNet(50, deep_stem=True, frozen_stages=0, act_cfg=dict(type='AGLU', num_features=None))
    acts = [m for m in net.stem if isinstance(m, AGLU)]
    assert [a.num_features for a in acts] == [32, 32, 64]
    assert not any(p.requires_grad for a in acts for p in a.parameters())
    assert not any(isinstance(m, nn.ReLU) for m in net.stem)


@pytest.mark.parametrize('depth, last', [(18, 'norm2'), (50, 'norm3')])
@pytest.mark.parametrize('zero_init_residual', [True, False])
def test_residual_branches_start_at_zero(depth, last, zero_init_residual):
    net = SEResNet(depth, zero_init_residual=zero_init_residual)
    net.init_weights()
    for stage in net.res_layers:
        for block in getattr(net, stage):
            assert (getattr(block, last).weight == (0 if zero_init_residual else 1)).all()
            assert (block.norm1.weight == 1).all()


def test_pretrained_weights_load_and_survive_init(tmp_path):
    source = SEResNet(18)
    torch.save(dict(state_dict=source.state_dict()), tmp_path / 'weights.pth')
    net = SEResNet(18, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth')))
    net.init_weights()
    for (name, a), b in zip(net.state_dict().items(), source.state_dict().values()):
        assert torch.equal(a, b), name


def test_missing_pretrained_weights_are_refused():
    net = SEResNet(18, init_cfg=dict(type='Pretrained', checkpoint='pretrained/nowhere.pth'))
    with pytest.raises(
        FileNotFoundError, match=r"'pretrained/nowhere.pth' not found: .*init_cfg=None .*frozen_stages=-1"
    ):
        net.init_weights()


def test_weights_of_another_network_are_refused(tmp_path):
    wide = SEResNet(18, base_channels=32, stem_channels=64)
    for weights, code, line in (
        (
            {'stem.weight': torch.zeros(64, 3, 7, 7)},
            'nothing-in-common',
            r'no name in common, stem.weight … against conv1.weight, ',
        ),
        (
            dict(model={'conv1.weight': torch.zeros(64, 3, 7, 7)}),
            'no-weights',
            'w.pth holds no weights, .*; tools/convert_official_weights.py converts official weights$',
        ),
        (SEResNet(34).state_dict(), 'other-depth', 'the checkpoint is a ResNet-34, the model a ResNet-18; use'),
        (
            wide.state_dict(),
            'other-model',
            r'of another shape, first layer1.0.conv1.weight: \(32, 64, 3, 3\), not \(64, 64, 3, 3\);',
        ),
        ([1, 2], 'no-weights', 'w.pth holds no weights'),
    ):
        torch.save(weights, tmp_path / 'w.pth')
        net = SEResNet(18, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'w.pth'), prefix=None))
        with pytest.raises((BadCheckpoint, WrongWeights), match=line) as refused:
            net.init_weights()
        assert refused.value.code == code
    (tmp_path / 'w.pth').write_bytes((tmp_path / 'w.pth').read_bytes()[:300])
    with pytest.raises(BadCheckpoint, match='w.pth is cut short, damaged or not a checkpoint'):
        net.init_weights()


def test_weights_of_a_plain_resnet_and_of_a_parallel_model_load(tmp_path):
    from mmdet.models.backbones import ResNet

    for source, prefix in ((ResNet(18), ''), (SEResNet(18), 'module.')):
        torch.save({prefix + key: tensor for key, tensor in source.state_dict().items()}, tmp_path / 'w.pth')
        net = SEResNet(18, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'w.pth')))
        net.init_weights()
        assert torch.equal(net.layer4[1].conv2.weight, source.layer4[1].conv2.weight)


@pytest.mark.parametrize('options', [{}, BASELINE])
def test_weights_under_official_names_are_refused(options, tmp_path):
    state = {official_name(key): tensor for key, tensor in SEResNet(50, **options).state_dict().items()}
    torch.save(state, tmp_path / 'w.pth')
    net = SEResNet(50, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'w.pth')), **options)
    with pytest.raises(
        WrongWeights, match='is an official name; convert the official names with tools/conv'
    ) as refused:
        net.init_weights()
    assert refused.value.code == 'official-names'


def test_weights_of_a_detector_load_by_prefix(tmp_path):
    source = SEResNet(18)
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in source.state_dict().items()}), tmp_path / 'w.pth')
    net = SEResNet(18, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'w.pth'), prefix='backbone.'))
    net.init_weights()
    assert torch.equal(net.layer4[1].act_out.lambda_, source.layer4[1].act_out.lambda_)


@pytest.mark.parametrize(
    'arguments, line',
    [
        (dict(depth=51), r'SEResNet: unknown depth 51, choose from \[18, 34, 50, 101, 152\]'),
        (
            dict(depth=50, act_cfg=dict(conv3=dict(type='ReLU'))),
            r"act_cfg: unknown site 'conv3', this depth has \['stem', 'conv1', 'conv2', 'out'\]",
        ),
        (
            dict(depth=18, act_cfg=dict(conv2=dict(type='ReLU'))),
            r"act_cfg: unknown site 'conv2', this depth has \['stem', 'conv1', 'out'\]",
        ),
        (
            dict(depth=18, act_cfg=dict(type='ReLU', conv1=dict(type='AconC'))),
            r'act_cfg has both a type and sites \(conv1\); a config that replaces the one by the other needs _delete_=True',
        ),
        (
            dict(depth=50, act_cfg='ReLU'),
            r"act_cfg: 'ReLU' is neither a config such as dict\(type='AGLU'\) nor a dict with one for each site",
        ),
        (dict(depth=50, act_cfg=None), r'act_cfg: None is neither a config'),
        (
            dict(depth=50, act_cfg=dict(stem='ReLU')),
            r"act_cfg: 'ReLU' of site 'stem' is not a config such as dict\(type='ReLU'\)",
        ),
        (dict(depth=50, act_cfg=dict(out=None)), r"act_cfg: None of site 'out' is not a config"),
    ],
)
def test_invalid_arguments_are_refused_in_one_line(arguments, line):
    with pytest.raises(ValueError, match=line):
        SEResNet(**arguments)


@pytest.mark.parametrize('dtype', [torch.bfloat16])
def test_mixed_precision(dtype):
    net = SEResNet(18).train()
    with torch.autocast('cpu', dtype=dtype):
        features = net(torch.randn(2, 3, 64, 64))
    sum(f.float().mean() for f in features).backward()
    assert all(f.dtype == dtype for f in features)
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in net.parameters())


@pytest.mark.parametrize(
    'depth, se_cfg, kind, channels',
    [
        (34, {}, SELayer, {64: 3, 128: 4, 256: 6, 512: 3}),
        (18, dict(type='SELayer', ratio=8), SELayer, {64: 2, 128: 2, 256: 2, 512: 2}),
        (50, dict(type='CBAM', kernel_size=3), CBAM, {256: 3, 512: 4, 1024: 6, 2048: 3}),
    ],
    ids=str,
)
def test_every_block_has_attention_of_its_own_over_its_result(depth, se_cfg, kind, channels):
    before = dict(se_cfg)
    layers = [m for m in SEResNet(depth, se_cfg=se_cfg).modules() if isinstance(m, kind)]
    assert Counter(m.fc1.in_features for m in layers) == channels
    assert len({id(m.fc1.weight) for m in layers}) == len(layers)
    assert se_cfg == before


def test_unknown_attention_is_refused():
    with pytest.raises(KeyError, match="se_cfg: attention 'CBAMM' is not registered; choose SELayer or CBAM, or list"):
        SEResNet(18, se_cfg=dict(type='CBAMM'))


def randomized(net):
    """Random statistics and parameters of the norms, no dropout."""
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5), nn.init.normal_(part.bias, 0, 0.3)
            nn.init.normal_(part.running_mean, 0, 0.3), nn.init.uniform_(part.running_var, 0.5, 2)
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return net


SHAPES = (64, 32), (32, 96)  # of images; a batch has 64 x 96
REGION = [
    dict(depth=18),
    dict(depth=50, avg_down=True, recompute_act=True),
    dict(depth=18, with_cp=True, se_cfg=dict(norm_cfg=None, gate_cfg=dict(type='Sigmoid'))),
    dict(depth=18, se_cfg=dict(type='CBAM'), act_cfg=dict(type='ReLU')),
    dict(depth=50, style='caffe', act_cfg=dict(type='MetaAconC')),
    dict(depth=18, deep_stem=True, se_cfg=None, act_cfg=dict(type='MetaAconC')),
    dict(depth=18, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
]


def padded(images):
    batch = torch.zeros(
        len(images), 3, *(max(side) for side in zip(*(i.shape[1:] for i in images))), dtype=torch.float64
    )
    for into, i in zip(batch, images):
        into[:, : i.shape[1], : i.shape[2]] = i
    return batch


def gradients_at(images, net, x, sizes):
    """Features within the images, and the gradients of the parameters and images from them."""
    x = x.clone().requires_grad_()
    if len(sizes) > 1:
        mark_valid_region(x, SHAPES)
    features = [f[n, :, :h, :w] for level, f in enumerate(net(x)) for n, (h, w) in enumerate(s[level] for s in sizes)]
    net.zero_grad()
    sum((f * torch.linspace(-1, 1, f.numel(), dtype=f.dtype).view(f.shape)).sum() for f in features).backward()
    return features, x.grad, [p.grad for p in net.parameters() if p.grad is not None]


@pytest.mark.parametrize('kwargs', REGION, ids=str)
def test_an_image_has_the_features_and_gradients_that_it_has_alone_beside_a_larger_one(kwargs):
    net = randomized(SEResNet(frozen_stages=-1, **SMALL, **kwargs)).double().train()
    images = [torch.randn(3, *shape, dtype=torch.float64) for shape in SHAPES]
    alone = [[tuple(f.shape[2:]) for f in net(i[None])] for i in images]
    got, to_batch, to_parameters = gradients_at(images, net, padded(images), alone)
    want = [gradients_at([i], net, i[None], [sizes]) for i, sizes in zip(images, alone)]
    for level in range(4):
        for n in range(2):
            torch.testing.assert_close(got[2 * level + n], want[n][0][level], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(to_batch, padded([w[1][0] for w in want]), rtol=1e-8, atol=1e-9)
    for total, *parts in zip(to_parameters, *(w[2] for w in want)):
        torch.testing.assert_close(total, sum(parts), rtol=1e-8, atol=1e-8)
    with torch.no_grad():
        unmarked = net(padded(images))[-1][0, :, : alone[0][-1][0], : alone[0][-1][1]]
    assert not torch.allclose(unmarked, want[0][0][-1], rtol=1e-2), 'the padding acts without the mark'


def test_images_of_one_size_have_the_same_features_with_a_mark():
    net, x = SEResNet(18, **SMALL).eval(), torch.randn(2, 3, 64, 64)
    want = net(x)
    assert all(torch.equal(a, b) for a, b in zip(net(mark_valid_region(x, [(64, 64)] * 2)), want))


@pytest.mark.slow
@pytest.mark.parametrize('kwargs', [dict(), dict(with_cp=True, act_cfg=dict(type='MetaAconC'))], ids=str)
def test_a_compiled_network_reads_the_mark_of_each_batch(kwargs):
    one_stage = dict(num_stages=1, strides=(1,), dilations=(1,), out_indices=(0,))
    net = randomized(SEResNet(18, frozen_stages=-1, **one_stage, **SMALL, **kwargs)).train()
    torch._dynamo.reset()
    graphs = torch._dynamo.utils.counters['stats']
    before = graphs['unique_graphs']
    compiled = torch.compile(net, backend='aot_eager', fullgraph=True)
    for shapes in ([(64, 64), (40, 33)], [(30, 64), (64, 64)], [(64, 64)] * 2):
        x = mark_valid_region(torch.randn(2, 3, 64, 64), shapes)
        for got, want in zip(compiled(x), net(x)):
            torch.testing.assert_close(got, want)
    assert graphs['unique_graphs'] - before == 2, 'one graph for all sizes, one without a mark'

"""The fused pass gives the results of the modules, and whatever cannot be fused runs as modules.

A forward hook on a module must see its call, so a network with hooks on its norms runs as plain modules.
"""

import copy

import pytest
import torch
from helpers.preceding import require_extension
from helpers.replicas import gradients_under_fsdp, replica_of
from mmcv.cnn.utils import fuse_conv_bn
from mmdet.registry import MODELS
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from apa_mmdet.models.activations import AGLU
from apa_mmdet.models.backbones import SEResNet, SEResNeXt
from apa_mmdet.models.layers import SELayer, norm_act, residual_act, se_layer
from apa_mmdet.models.layers.norm_act import can_fold_norm, tensors_of
from apa_mmdet.ops.backends import cpu_extension
from apa_mmdet.ops.memory_layout import compute_dtype

SMALL = dict(base_channels=16, stem_channels=16)


def randomized(module):
    """Sets norms to random statistics and parameters, and dropout to 0."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d) and part.affine:
            nn.init.uniform_(part.weight, -1, 1.5)
            nn.init.normal_(part.bias)
        if isinstance(part, nn.BatchNorm2d) and part.track_running_stats:
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2)
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return module


def plain(module):
    """A copy in which every norm has a hook, so that nothing is fused."""
    module = copy.deepcopy(module)
    module.calls = []
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.register_forward_hook(lambda norm, *_: module.calls.append(id(norm)))
    return module


def features_and_gradients(net, x):
    x = x.detach().clone().requires_grad_()
    features = net(x)
    torch.manual_seed(1)
    sum((f * torch.randn(f.shape, dtype=torch.float64).to(f.dtype)).mean() for f in features).backward()
    return [*features, x.grad, *(p.grad for p in net.parameters())]


def assert_close(got, want, tolerance):
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * (1e-6 + b.abs().max().item()))


def keeps(net, x):
    """Number of large tensors kept for backward."""
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        net(x)
    own = {p.data_ptr() for p in (*net.parameters(), *net.buffers())}
    return sum(pointer not in own and t.dim() == 4 for pointer, t in kept.items())


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(depth=18),
        dict(depth=50),
        dict(depth=50, se_cfg=None, act_cfg=dict(type='APA')),
        dict(depth=50, avg_down=True, act_cfg=dict(type='AGLU', num_features=None)),
        dict(depth=18, deep_stem=True),
        dict(
            depth=50, se_cfg=dict(norm_cfg=None, gate_cfg=dict(type='Sigmoid')), act_cfg=dict(conv1=dict(type='ReLU'))
        ),
        dict(depth=18, act_cfg=dict(out=dict(type='SiLU'))),
        dict(depth=50, recompute_act=True),
        dict(depth=18, with_cp=True),
        dict(depth=18, se_cfg=dict(type='CBAM')),
        dict(type='SEResNeXt', depth=50, groups=4, base_width=8),
    ],
    ids=str,
)
def test_fused_network_matches_plain_modules(kwargs):
    net = randomized(MODELS.build(dict(dict(type='SEResNet'), **SMALL, **kwargs))).double().train()
    x = torch.randn(2, 3, 64, 48, dtype=torch.float64)
    reference = plain(net)
    want = features_and_gradients(reference, x)
    norms = {id(m) for m in reference.modules() if isinstance(m, nn.BatchNorm2d)}
    assert set(reference.calls) == norms, 'a hook was not called'
    assert_close(features_and_gradients(net, x), want, 1e-9)


@pytest.mark.parametrize('norm_cfg', [dict(type='BN'), dict(type='BN', affine=False)], ids=['BN', 'no affine'])
def test_a_replica_of_a_fused_network_is_the_network(norm_cfg):
    net, x = randomized(SEResNet(18, norm_cfg=norm_cfg, **SMALL)).eval(), torch.randn(1, 3, 32, 32)
    results = [
        torch.autograd.grad(sum(f.sum() for f in each(x)), list(net.parameters())) for each in (replica_of(net), net)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*results))


@pytest.mark.filterwarnings('ignore::UserWarning')  # one process has nothing to shard
@pytest.mark.parametrize('use_orig_params', [False, True])
def test_a_fused_network_under_fsdp_is_the_network(use_orig_params, tmp_path):
    net, x = randomized(SEResNet(18, **SMALL)).eval(), torch.randn(1, 3, 32, 32)
    want = torch.autograd.grad(sum(f.sum() for f in net(x)), list(net.parameters()))
    got = gradients_under_fsdp(net, lambda each: sum(f.sum() for f in each(x)), use_orig_params, tmp_path)
    torch.testing.assert_close(got, torch.cat([grad.flatten() for grad in want]))


def test_fused_network_in_float32_and_channels_last():
    net = randomized(SEResNet(50, **SMALL)).train()
    x = torch.randn(1, 3, 64, 64)
    want = features_and_gradients(plain(net).double(), x.double())
    assert_close(features_and_gradients(copy.deepcopy(net), x), [t.float() for t in want], 2e-3)
    net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    got = features_and_gradients(net, x)
    assert all(f.is_contiguous(memory_format=torch.channels_last) for f in got[:4])
    assert_close(got, [t.float() for t in want], 2e-3)


@pytest.mark.parametrize('backbone', [SEResNet, SEResNeXt])
def test_a_bottleneck_keeps_only_results_and_inputs_of_its_convolutions(backbone):
    block = randomized(backbone(50, num_stages=2, strides=(1, 1), dilations=(1, 1), out_indices=(1,))).layer2[1].train()
    x = torch.randn(2, 512, 8, 8, requires_grad=True)
    block.eval()  # of the norms; nothing else here depends on the mode
    assert keeps(block, x) == 3 + 3  # conv1..3, and x, the results of act_conv1 and act_conv2
    assert keeps(plain(block), x) > 3 + 3


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(norm_eval=False),
        dict(norm_cfg=dict(type='GN', num_groups=8)),
        dict(norm_cfg=dict(type='BN', affine=False, track_running_stats=False)),
        dict(dcn=dict(type='DCNv2', deform_groups=1), stage_with_dcn=(False, True, True, True)),
        dict(
            plugins=[
                dict(
                    cfg=dict(type='ContextBlock', ratio=1 / 16),
                    stages=(False, True, True, True),
                    position='after_conv3',
                ),
                dict(cfg=dict(type='NonLocal2d'), position='after_conv1'),
            ]
        ),
    ],
    ids=lambda kwargs: next(iter(kwargs)),
)
@pytest.mark.parametrize('recompute_act', [False, True])
def test_what_cannot_be_fused_runs_as_modules(kwargs, recompute_act):
    """Compares with the modules of the network called one by one."""
    torch.manual_seed(3)
    net = randomized(SEResNet(50, recompute_act=recompute_act, **SMALL, **kwargs)).train()
    out = net(torch.randn(2, 3, 64, 64))
    sum(f.mean() for f in out).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    block, x = net.layer1[0], torch.randn(2, 16, 16, 16)
    by_hand = block.act_conv1(block.norm1(block.conv1(x)))
    by_hand = block._plugins(by_hand, 'after_conv1')
    by_hand = block.act_conv2(block.norm2(block.conv2(by_hand)))
    by_hand = block.norm3(block.conv3(by_hand))
    by_hand = block.act_out(block.se(block._plugins(by_hand, 'after_conv3')) + block.downsample(x))
    torch.testing.assert_close(block(x), by_hand, rtol=1e-4, atol=1e-4)


def counting_gates(monkeypatch):
    """Counts the calls of the operator for gates that it served."""
    calls, own = [], se_layer.squeeze_excite
    monkeypatch.setattr(se_layer, 'squeeze_excite', lambda *args: calls.append(own(*args)) or calls[-1])
    return calls


@pytest.mark.parametrize(
    'kwargs',
    [dict(), dict(norm_cfg=None), dict(gate_cfg=dict(type='APA', num_features=None)), dict(dropout=0.4)],
    ids=str,
)
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_gates_in_one_operator_match_the_modules(kwargs, memory_format, monkeypatch):
    require_extension()
    net = SEResNet(18, se_cfg=kwargs, **SMALL).train()
    for p in (p for name, p in net.named_parameters() if '.se.' in name and p.dim() == 2):
        nn.init.normal_(p)
    net, x = net.to(memory_format=memory_format), torch.randn(2, 3, 48, 64).to(memory_format=memory_format)
    results = []
    for modules in (False, True):
        with monkeypatch.context() as patch:
            calls = counting_gates(patch)
            if modules:
                patch.setattr(SELayer, 'fused_gates', lambda *_: None)
            torch.manual_seed(7)  # of dropout
            net.zero_grad()
            results.append(features_and_gradients(net, x))
        assert len(calls) == (0 if modules else 8) and all(gates is not None for gates in calls)
        results[-1] = [t.clone() for t in results[-1]]
    assert_close(*results, 2e-3)


@pytest.mark.parametrize('se_cfg', [dict(), None, dict(gate_cfg=dict(type='Sigmoid'))], ids=str)
def test_after_norms_went_into_convolutions_the_rest_is_still_one_pass(se_cfg, monkeypatch):
    net, x = randomized(SEResNet(18, se_cfg=se_cfg, **SMALL)).eval(), torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        want = net(x)
        net = fuse_conv_bn(net)
        assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
        calls = counting_gates(monkeypatch)
        sites = [m for m in net.modules() if isinstance(m, AGLU)]
        given, own = [], AGLU.function
        monkeypatch.setattr(AGLU, 'function', staticmethod(lambda *args, **kw: given.append(kw) or own(*args, **kw)))
        assert_close(net(x), want, 1e-4)
    assert len(given) == len(sites) and sum(kw.get('residual') is not None for kw in given) == 8
    assert len([gates for gates in calls if gates is not None]) == (
        8 if se_cfg == {} and cpu_extension.is_supported() else 0
    )


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    'change',
    [
        lambda se: setattr(se, 'fc1', Doubled(32, 2, bias=False)),
        lambda se: setattr(se, 'fc2', Doubled(2, 32, bias=False)),
        lambda se: setattr(se, 'fc1', nn.Linear(32, 2)),
        lambda se: setattr(se, 'act', nn.SiLU()),
        lambda se: setattr(se, 'gate', nn.Sigmoid()),
        lambda se: setattr(se, 'norm', nn.GroupNorm(2, 32)),
        lambda se: setattr(se, 'dropout', nn.Dropout(1.0)),
        lambda se: setattr(se.fc1, 'forward', lambda t: 3 * t[:, :2]),
        lambda se: se.fc2.register_forward_hook(lambda *_: torch.ones(2, 32)),
    ],
    ids=range(9),
)
def test_other_parts_of_an_attention_layer_run_as_modules(change):
    norm, se, act = randomized(nn.BatchNorm2d(32)).eval(), SELayer(32).train(), AGLU()
    change(se)
    x = torch.randn(2, 32, 6, 5)
    se.dropout.eval()  # counts, unlike the mode of the layer
    torch.testing.assert_close(residual_act(x, norm, se, x, None, act), act(se(norm(x)) + x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', ['norm1', 'act_conv1', 'se', 'se.gate', 'se.fc2', 'downsample.1', 'downsample'])
def test_hooks_on_a_module_are_called(name):
    block = randomized(SEResNet(18, **SMALL)).eval().layer2[0]
    x = torch.randn(2, 16, 8, 8, requires_grad=True)
    want, calls = block(x), []
    module = block.get_submodule(block.norm1_name if name == 'norm1' else name)
    for register in (
        module.register_forward_hook,
        module.register_forward_pre_hook,
        module.register_full_backward_hook,
    ):
        calls.clear()
        handle = register(lambda *args: calls.append(args))
        got = block(x)
        got.sum().backward()
        handle.remove()
        assert len(calls) == 1, register.__name__
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize('name', ['norm1', 'act_conv1', 'se', 'downsample', 'downsample.1'])
def test_a_forward_replaced_on_the_instance_is_called(name):
    block = randomized(SEResNet(18, **SMALL)).eval().layer2[0]
    x, seen = torch.randn(2, 16, 8, 8), []
    want = block(x)
    module = block.get_submodule(block.norm1_name if name == 'norm1' else name)
    own = module.forward
    module.forward = lambda *args: seen.append(1) or own(*args)
    torch.testing.assert_close(block(x), want)
    assert len(seen) == 1


def test_hooks_on_a_deep_stem_are_called():
    net, seen = SEResNet(18, deep_stem=True).eval(), []
    net.stem.register_forward_hook(lambda *_: seen.append(1))
    net(torch.randn(1, 3, 32, 32))
    assert len(seen) == 1


def test_a_subclass_that_overrides_forward_runs_as_a_plain_module():
    class Clamped(AGLU):
        def forward(self, z):
            return super().forward(z.clamp(max=1))

    norm, act, x = randomized(nn.BatchNorm2d(4)).eval(), Clamped(), torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(norm_act(x, norm, act), act(norm(x)))
    torch.testing.assert_close(residual_act(x, norm, nn.Identity(), x, None, act), act(norm(x) + x))


def test_other_attention_is_not_added_to_in_place():
    class Squashed(nn.Module):
        def forward(self, x):
            return x.tanh()

    norm, attention, act = randomized(nn.BatchNorm2d(4)).eval(), Squashed(), AGLU()
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    results = residual_act(x, norm, attention, x, None, act), act(norm(x).tanh() + x)
    for got, want in zip(*((out, *torch.autograd.grad(out.sum(), x)) for out in results)):
        torch.testing.assert_close(got, want)


def test_the_pooled_mean_is_not_rounded_under_autocast():
    norm, act, se = nn.BatchNorm2d(32).eval(), AGLU(), SELayer(32).eval()
    nn.init.constant_(norm.running_mean, 10.0)
    x = (torch.randn(4, 32, 20, 20) + 10).bfloat16()
    gates, seen = se.gates, []
    se.gates = lambda pooled: seen.append(pooled) or gates(pooled)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        residual_act(x, norm, se, x, None, act)
    exact = (x.double().mean((2, 3)) - 10) / (1 + norm.eps) ** 0.5
    torch.testing.assert_close(seen[0].double(), exact, rtol=1e-2, atol=1e-3)


class Computed(TorchDispatchMode):
    """Counts operators that compute, as a GPU launches them; with a mode, no operator of a CPU alone serves."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        allocates = any(name in str(function) for name in ('empty', 'new_zeros'))
        self.count += not (function.is_view or allocates or 'detach' in str(function))
        return result


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_a_block_with_attention_computes_no_more_operators_than_with_relu(dtype):
    def operators(act, gate):
        norm, attention = nn.BatchNorm2d(32).eval(), SELayer(32, gate_cfg=gate)
        x = torch.randn(2, 32, 6, 6, dtype=dtype, requires_grad=True)
        identity = torch.randn(2, 32, 6, 6, dtype=dtype, requires_grad=True)
        with torch.autocast('cpu', torch.bfloat16, enabled=dtype == torch.bfloat16), Computed() as forward:
            out = residual_act(x, norm, attention, identity, None, act)
        with Computed() as backward:
            out.backward(torch.ones_like(out))
        return forward.count, backward.count

    ours, relu = operators(AGLU(), dict(type='APA')), operators(nn.ReLU(inplace=True), dict(type='Sigmoid'))
    assert ours[0] <= relu[0] and ours[1] <= relu[1], (ours, relu)


def test_global_hooks_see_every_module():
    block = randomized(SEResNet(18, **SMALL)).eval().layer2[0]
    called = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: called.append(module))
    try:
        block(torch.randn(2, 16, 8, 8))
    finally:
        handle.remove()
    assert {id(m) for m in block.modules() if not isinstance(m, nn.Sequential)} - {id(block)} <= {id(m) for m in called}


@pytest.mark.parametrize('kwargs', [dict(), dict(affine=False), dict(eps=0.1)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.float16])
def test_fold_is_the_batch_norm(kwargs, dtype):
    norm = randomized(nn.BatchNorm2d(5, **kwargs)).to(dtype).eval()
    x = torch.randn(2, 5, 3, 3, dtype=dtype)
    scale, shift = tensors_of(norm).fold(compute_dtype(dtype))
    assert scale.dtype == shift.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    want = nn.functional.batch_norm(
        x.double(),
        *(None if t is None else t.double() for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)),
        eps=norm.eps,
    )
    torch.testing.assert_close((x * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)).double(), want, rtol=1e-5, atol=1e-5)


def test_only_batch_norms_in_eval_mode_and_the_identity_fold():
    assert can_fold_norm(nn.BatchNorm2d(3).eval())
    assert can_fold_norm(nn.Identity())
    for norm in (
        nn.BatchNorm2d(3),
        nn.BatchNorm2d(3, track_running_stats=False).eval(),
        nn.SyncBatchNorm(3).eval(),
        nn.GroupNorm(1, 3).eval(),
        MODELS.build(dict(type='LN2d', num_channels=3)).eval() if 'LN2d' in MODELS else nn.InstanceNorm2d(3).eval(),
    ):
        assert not can_fold_norm(norm), norm


@pytest.mark.parametrize('autocast', [True, False])
def test_half_precision(autocast):
    norm, act, se, x = (
        randomized(nn.BatchNorm2d(32)).eval(),
        AGLU(),
        SELayer(32).eval(),
        torch.randn(2, 32, 6, 6).bfloat16(),
    )
    if not autocast:
        norm, act, se = norm.bfloat16(), act.bfloat16(), se.bfloat16()
    want = act.double()(se.double()(norm.double()(x.double())) + x.double())
    norm, act, se = (m.float() if autocast else m.bfloat16() for m in (norm, act, se))
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
        got = residual_act(x, norm, se, x, None, act)
        mixed = residual_act(x, norm, se, x.float(), None, act)
        assert norm_act(x, norm, act).dtype == torch.bfloat16
    assert got.dtype == mixed.dtype == torch.bfloat16
    for out in (got, mixed):
        torch.testing.assert_close(out.double(), want, rtol=0.05, atol=0.05)

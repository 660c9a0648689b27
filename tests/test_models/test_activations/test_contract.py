"""The contract of every registered activation; a new one adds its row to ``ACTIVATIONS``."""

import copy
import pickle

import pytest
import torch
from helpers.torch_features import compiles_in_one_graph, export_onnx, needs_half_on_cpu
from helpers.traced_graphs import foreign_operators, saved_and_loaded
from mmcv.cnn import ConvModule
from mmcv.cnn.utils import fuse_conv_bn
from mmengine.registry import MODELS

from apa_mmdet.models.activations import build_activation

CHANNELS = 6
ACTIVATIONS = {
    'APA': dict(type='APA'),
    'APA per channel': dict(type='APA', num_features=None),
    'AGLU': dict(type='AGLU'),
    'AGLU per channel': dict(type='AGLU', num_features=None),
    'AconA': dict(type='AconA', num_features=None),
    'AconB': dict(type='AconB', num_features=None),
    'AconC': dict(type='AconC', num_features=None),
    'MetaAconC': dict(type='MetaAconC', num_features=None),
    'MetaAconC without norm': dict(type='MetaAconC', num_features=None, norm_cfg=None),
    'APALU': dict(type='APALU', num_features=None),
}
every_activation = pytest.mark.parametrize('cfg', ACTIVATIONS.values(), ids=ACTIVATIONS.keys())


@every_activation
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('shape', [(2, CHANNELS, 5, 3), (0, CHANNELS, 4, 4), (3, CHANNELS)])
def test_keeps_shape_and_dtype_and_gives_every_parameter_a_gradient(cfg, dtype, shape):
    act = build_activation(cfg, CHANNELS).eval()  # a norm in training cancels the bias before it
    z = torch.randn(shape).to(dtype).requires_grad_()
    before = z.detach().clone()
    out = act(z)
    out.float().sum().backward()
    assert out.shape == z.shape and out.dtype == z.grad.dtype == dtype
    assert torch.equal(z, before), 'the input was overwritten'
    for parameter in act.parameters():
        assert parameter.dtype == torch.float32
        assert (parameter.grad != 0).any() == bool(z.numel())


@every_activation
def test_gradcheck(cfg):
    act = build_activation(cfg, CHANNELS).double()
    names = [name for name, _ in act.named_parameters()]
    z = torch.randn(2, CHANNELS, 3, 2, dtype=torch.float64, requires_grad=True)

    def function(z, *parameters):
        return torch.func.functional_call(act, dict(zip(names, parameters)), z)

    assert torch.autograd.gradcheck(function, (z, *act.parameters()))


@every_activation
def test_state_dict_copy_and_pickle_keep_the_function(cfg):
    act, other = build_activation(cfg, CHANNELS), build_activation(cfg, CHANNELS)
    z = torch.randn(2, CHANNELS, 4, 4)
    for parameter in act.parameters():
        torch.nn.init.uniform_(parameter)
    assert not torch.equal(act(z), other(z)), 'two activations share their parameters'
    other.load_state_dict(act.state_dict())
    for same in (other, copy.deepcopy(act), pickle.loads(pickle.dumps(act))):
        assert torch.equal(same(z), act(z))


@every_activation
def test_fits_mmcv_conv_module(cfg):
    cfg = dict(cfg, num_features=CHANNELS) if 'num_features' in cfg else cfg
    block = ConvModule(3, CHANNELS, 3, norm_cfg=dict(type='BN'), act_cfg=cfg)
    block(torch.randn(2, 3, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in block.parameters())


@every_activation
def test_under_autocast_parameters_stay_in_float32_and_the_dtype_of_the_conv_is_kept(cfg):
    cfg = dict(cfg, num_features=CHANNELS) if 'num_features' in cfg else cfg
    block = ConvModule(3, CHANNELS, 3, norm_cfg=None, act_cfg=cfg)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = block(torch.randn(2, 3, 8, 8))
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert all(p.grad.dtype == torch.float32 for p in block.activate.parameters())


@every_activation
@pytest.mark.parametrize('dtype', [torch.bfloat16, pytest.param(torch.float16, marks=needs_half_on_cpu)])
def test_under_autocast_it_computes_in_float32(cfg, dtype):
    act = build_activation(cfg, CHANNELS)  # in training mode: norms take few, similar values
    x = (torch.randn(4, CHANNELS, 9, 9) * 0.3 + 5).to(dtype).requires_grad_()
    want = copy.deepcopy(act).double()(x.double())
    with torch.autocast('cpu', dtype=dtype):
        got = act(x)
    assert ((got - want).abs() <= torch.finfo(dtype).eps * want.abs().clamp(min=0.05)).all()
    scale = 2.0**10  # as a loss scale
    got.backward(torch.full_like(got, scale))
    assert all(t.grad.isfinite().all() for t in (x, *act.parameters()))


@every_activation
def test_second_derivatives_are_right_or_refused(cfg):
    """Autograd gives them; a hand-derived backward would be differentiated as if it were the whole derivative."""
    act = build_activation(cfg, CHANNELS).double().eval()
    z = torch.randn(2, CHANNELS, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(act(z).square().sum(), z, create_graph=True)
    try:
        slope.sum().backward()
    except RuntimeError as error:
        assert 'once_differentiable' in str(error)
    else:
        assert torch.autograd.gradgradcheck(act, z)


def value_and_gradients(function, act, z):
    out = function(z)
    return out, *torch.autograd.grad(out.square().sum(), (z, *act.parameters()))


@every_activation
@pytest.mark.parametrize(
    'device',
    ['meta', pytest.param('cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA'))],
)
def test_every_tensor_moves_to_another_device(cfg, device):
    act, z = build_activation(cfg, CHANNELS).double(), torch.randn(2, CHANNELS, 4, 4, dtype=torch.float64)
    moved = copy.deepcopy(act).to(device)
    want = value_and_gradients(act, act, z.clone().requires_grad_())
    got = value_and_gradients(moved, moved, z.to(device).requires_grad_())
    assert all(tensor.device.type == device for tensor in got)
    for there, here in zip(got, want) if device != 'meta' else ():
        torch.testing.assert_close(there.cpu(), here)


@compiles_in_one_graph
@every_activation
@pytest.mark.parametrize('backend', ['aot_eager', pytest.param('inductor', marks=pytest.mark.slow)])
def test_compiles_without_graph_breaks(cfg, backend):
    act, z = build_activation(cfg, CHANNELS), torch.randn(2, CHANNELS, 4, 4, requires_grad=True)
    torch._dynamo.reset()
    compiled = torch.compile(act, backend=backend, fullgraph=True)
    for got, want in zip(value_and_gradients(compiled, act, z), value_and_gradients(act, act, z)):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)  # norms of two images divide by small deviations


@compiles_in_one_graph
@every_activation
def test_two_in_a_row_compile_for_any_shape(cfg):
    net = torch.nn.Sequential(*(build_activation(cfg, CHANNELS) for _ in range(2)))
    z = torch.randn(3, CHANNELS, 5, 4).bfloat16().requires_grad_()  # the dtype with the most constants
    torch._dynamo.reset()
    compiled = torch.compile(net, backend='aot_eager', fullgraph=True, dynamic=True)
    out = compiled(z)
    torch.testing.assert_close(out, net(z))
    out.float().sum().backward()
    assert all(t.grad.isfinite().all() for t in (z, *net.parameters()))


@pytest.mark.parametrize('name', ['AconA', 'AconB', 'AconC', 'MetaAconC', 'APALU'])
def test_other_modules_than_ours_must_give_the_channel_count(name):
    with pytest.raises(
        ValueError, match='set num_features=…, the channels of this layer; SEResNet and SwapActivations fill it in'
    ):
        ConvModule(3, 8, 3, act_cfg=dict(type=name))
    block = ConvModule(3, 8, 3, act_cfg=dict(type=name, num_features=8))
    assert block(torch.randn(2, 3, 6, 6)).shape == (2, 8, 4, 4)
    assert build_activation(dict(type=name), 8).num_features == 8, 'our modules give it'


@every_activation
def test_onnxruntime_agrees(cfg, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    act = build_activation(cfg, CHANNELS).eval()
    export_onnx(
        act,
        (torch.randn(1, CHANNELS, 5, 4),),
        str(tmp_path / 'act.onnx'),
        False,
        input_names=['z'],
        dynamic_axes={'z': {0: 'images', 2: 'height', 3: 'width'}},
    )
    z = torch.randn(2, CHANNELS, 6, 3) * 3
    (got,) = onnxruntime.InferenceSession(str(tmp_path / 'act.onnx')).run(None, {'z': z.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), act(z).detach(), rtol=1e-5, atol=1e-5)


@every_activation
def test_a_trace_has_plain_operators_for_any_size_and_derivatives(cfg):
    act = build_activation(cfg, CHANNELS).eval()
    traced = torch.jit.trace(act, torch.randn(1, CHANNELS, 5, 4))
    assert not foreign_operators(traced)
    z = (torch.randn(2, CHANNELS, 6, 3) * 3).requires_grad_()
    for loaded in (traced, saved_and_loaded(traced)):
        torch.testing.assert_close(loaded(z), act(z), rtol=1e-5, atol=1e-6)
    (got,), (want,) = (torch.autograd.grad(f(z).square().sum(), z) for f in (traced, act))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@every_activation
def test_fuse_conv_bn_of_mmcv_keeps_the_function(cfg):
    block = ConvModule(3, CHANNELS, 3, norm_cfg=dict(type='BN'), act_cfg=dict(cfg, num_features=CHANNELS))
    for norm in (part for part in block.modules() if isinstance(part, torch.nn.BatchNorm2d)):
        torch.nn.init.normal_(norm.running_mean), torch.nn.init.uniform_(norm.running_var, 0.5, 2)
        torch.nn.init.uniform_(norm.weight, 0.5, 2), torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 3, 6, 6)
    fused = fuse_conv_bn(copy.deepcopy(block.eval()))
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in fused.modules())
    torch.testing.assert_close(fused(x), block(x), rtol=1e-4, atol=1e-5)


def test_every_activation_of_the_package_is_listed():
    registered = {
        name
        for name, module in MODELS.module_dict.items()
        if module.__module__.startswith('apa_mmdet.models.activations')
    }
    assert registered == {cfg['type'] for cfg in ACTIVATIONS.values()}

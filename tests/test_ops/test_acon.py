"""ACON against its formula under autograd in float64, and how large tensors are cut into blocks."""

import numpy as np
import pytest
import torch
from helpers.gradients import LAYOUTS, assert_agrees
from helpers.torch_features import export_onnx, needs_dynamic_export, needs_dynamo_exporter

from apa_mmdet.ops import acon
from apa_mmdet.ops.elementwise import BLOCK

SEVERAL_BLOCKS = (5, 6, 61, 103)
SHAPES = [((), (), ()), ((6,), (6,), (6,)), ((6,), (), (5, 6)), ((5, 6), (6,), ())]


def formula(x, p1, p2, beta):
    """As in the paper; the parameters broadcast."""
    return (p1 - p2) * x * torch.sigmoid(beta * (p1 - p2) * x) + p2 * x


def parameters(*shapes, dtype=torch.float64):
    return dict(zip(('p1', 'p2', 'beta'), (torch.randn(shape, dtype=dtype) for shape in shapes)))


def value_and_gradients(function, x, *params, grad=None):
    x = x.detach().requires_grad_()  # keeps its strides
    params = [p.detach().requires_grad_() for p in params]
    out = function(x, *params)
    grad = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out) if grad is None else grad
    return out.detach(), *torch.autograd.grad(out, (x, *params), grad)


@pytest.mark.parametrize('shape', [(), (0,), (7,), (3, 5), (2, 3, 5, 7), (0, 3, 4, 4), (2, 3, 0, 4), (70001,)])
def test_agrees_with_the_formula_on_any_shape(shape):
    assert_agrees(acon, formula, torch.randn(shape, dtype=torch.float64) * 3, parameters((), (), ()), 1e-10)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('size, turn', [((5, 6, 4, 3), 0), (SEVERAL_BLOCKS, 0), (SEVERAL_BLOCKS, 2)])
def test_agrees_with_the_formula_in_any_memory_order(layout, size, turn):
    """Every layout meets every shape of parameters in several blocks or in one."""
    for i in (turn, turn + 1):
        shapes = SHAPES[(i + list(LAYOUTS).index(layout)) % len(SHAPES)]
        x, params = LAYOUTS[layout](torch.randn(size, dtype=torch.float64)), parameters(*shapes)
        out = assert_agrees(acon, formula, x, params, 1e-10)
        if layout in ('contiguous', 'channels_last'):
            assert out.stride() == x.stride()
    # a gradient in another memory order than the input
    grad = torch.randn(size, dtype=torch.float64).transpose(0, 1).contiguous().transpose(0, 1)
    assert_agrees(acon, formula, x, params, 1e-10, grad)


@pytest.mark.parametrize('shape', [(700, 100), (3, 6, 12000), (3, 6, 20, 30, 20), (1, 70000), (70000, 1)])
@pytest.mark.parametrize('per_image', [False, True])
def test_agrees_with_the_formula_in_blocks_of_other_dimensions(shape, per_image):
    assert np.prod(shape) > BLOCK
    x, channels = torch.randn(shape, dtype=torch.float64), shape[1:2]
    params = parameters(channels, channels, shape[:2] if per_image else channels)
    assert_agrees(acon, formula, x, params, 1e-10)
    if x.dim() == 5:
        assert_agrees(acon, formula, x.to(memory_format=torch.channels_last_3d), params, 1e-10)


@pytest.mark.parametrize('shapes', [((1,), (1,), (1,)), ((4,), (4,), (3, 4))])
def test_gradcheck(shapes):
    x = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(acon, (x, *(p.requires_grad_() for p in parameters(*shapes).values())))


def test_every_derivative_in_float32_keeps_its_digits_up_to_1e4():
    """Where 1 − σ(v) is used, ∂S/∂β is wrong by as much as itself here: v reaches 17 while x² is 1e8."""
    size = torch.logspace(-3, 4, 50, dtype=torch.float64)
    x, beta, p = torch.meshgrid(
        torch.cat([-size, size]),
        torch.logspace(-4, 1, 11, dtype=torch.float64),
        torch.tensor([-0.7, 0.3, 1.3], dtype=torch.float64),
        indexing='ij',
    )
    # a channel for each combination; the same numbers on both sides
    x, beta, p1 = (t.reshape(-1).float() for t in (x, beta, p))
    p2 = torch.full_like(p1, 0.25)
    one = torch.ones_like(x)[None]
    got = value_and_gradients(acon, x[None], p1, p2, beta, grad=one)
    # in float64 the formula has enough digits in spite of its 1 − σ
    want = value_and_gradients(formula, *(t.double() for t in (x[None], p1, p2, beta)), grad=one.double())
    for name, a, b in zip(('value', 'x', 'p1', 'p2', 'beta'), got, want):
        error = ((a - b).abs() / b.abs().clamp(min=1)).max()
        assert error <= 5e-6, f'{name}: {error:.1e}'


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_finite_for_every_finite_input(dtype):
    top = 1e4 if dtype == torch.float32 else torch.finfo(dtype).max
    size = torch.tensor([0.0, 1e-7, 1.0, 8.0, 17.0, 88.0, 104.0, 1e3, 1e4, top]).to(dtype)
    slopes, betas = [(1.0, 0.0), (0.9, -0.9), (0.5, 0.5), (-1.0, 1e-3)], [0.0, 1e-3, 1.0, 50.0, -3.0]
    params = torch.tensor([(p1, p2, beta) for p1, p2 in slopes for beta in betas]).T  # a channel for each
    x = torch.cat([size, -size])[:, None].repeat(1, params.shape[1])
    out, *grads = value_and_gradients(acon, x, *params)
    assert out.dtype == grads[0].dtype == dtype
    for name, tensor in zip(('value', 'x', 'p1', 'p2', 'beta'), (out, *grads)):
        assert tensor.isfinite().all(), f'{name} {tensor}'


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('size', [(3, 6, 7, 7), SEVERAL_BLOCKS])
def test_half_precision_is_the_rounded_float32(dtype, size):
    x, params = (torch.randn(size) * 4).to(dtype), parameters((6,), (6,), (6,), dtype=torch.float32).values()
    grad = torch.randn(size).to(dtype)
    out, to_x, *rest = value_and_gradients(acon, x, *params, grad=grad)
    wide, wide_to_x, *wide_rest = value_and_gradients(acon, x.float(), *params, grad=grad.float())
    assert torch.equal(out, wide.to(dtype)) and torch.equal(to_x, wide_to_x.to(dtype))
    for a, b in zip(rest, wide_rest):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6 * b.abs().max().item())


def test_special_cases():
    x, (zero, one) = torch.linspace(-6, 6, 101), torch.tensor([0.0, 1.0])
    torch.testing.assert_close(acon(x, one, zero, one), torch.nn.functional.silu(x))
    torch.testing.assert_close(acon(x, one, zero, one * 1e5), x.relu())
    torch.testing.assert_close(acon(x, one, one / 4, one * 1e5), torch.nn.functional.leaky_relu(x, 0.25))
    torch.testing.assert_close(acon(x, one, one / 4, zero), 0.625 * x)  # the mean of both lines
    torch.testing.assert_close(acon(x, one / 4, one, one), acon(x, one, one / 4, one))


@pytest.mark.parametrize('p1, p2', [(1.0, 0.0), (2.0, -0.5), (0.3, 0.8)])
@pytest.mark.parametrize('beta', [0.5, 1.0, 7.0])
def test_the_slope_has_the_bounds_given_in_the_paper(p1, p2, beta):
    x = torch.linspace(-60, 60, 200001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(acon(x, *map(torch.tensor, (p1, p2, beta))).sum(), x)
    bounds = sorted((1.0998 * p1 - 0.0998 * p2, 1.0998 * p2 - 0.0998 * p1))
    assert [slope.min().item(), slope.max().item()] == pytest.approx(bounds, abs=2e-4)


def test_keeps_only_its_arguments_for_backward():
    kept = []
    x = torch.randn(SEVERAL_BLOCKS, requires_grad=True)
    params = list(parameters((6,), (6,), (5, 6), dtype=torch.float32).values())
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        acon(x, *params)
    assert [t.data_ptr() for t in kept] == [t.data_ptr() for t in (x, *params)]


def test_under_autocast_the_dtype_stays():
    x = torch.randn(4, 4, dtype=torch.bfloat16, requires_grad=True)
    params = [p.requires_grad_() for p in parameters((), (4,), (), dtype=torch.float32).values()]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = acon(x, *params)
    out.float().sum().backward()
    assert out.dtype == x.grad.dtype == torch.bfloat16
    assert all(p.grad.dtype == torch.float32 for p in params)


@pytest.mark.parametrize(
    'arguments, error, line',
    [
        (
            dict(p1=torch.ones(3)),
            ValueError,
            r'p1 has shape \(3,\), but an input of shape \(2, 4, 3, 3\) has 4 channels: '
            r'give one value, one per channel \(dimension 1\), \(C,\), or one per image and channel, \(N, C\)',
        ),
        (dict(beta=torch.ones(1, 4)), ValueError, r'beta has shape \(1, 4\), but an input'),
        (dict(x=torch.ones(4), p2=torch.ones(4)), ValueError, r'p2 .* an input of shape \(4,\) has 1 channels'),
        (dict(x=torch.ones(4, dtype=torch.int64)), TypeError, 'must have a floating point dtype, got torch.int64'),
        (dict(p2=torch.ones(4, device='meta')), ValueError, 'p2 is on meta, but the input is on cpu'),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, error, line):
    one = torch.ones(1)
    with pytest.raises(error, match=line):
        acon(**{**dict(x=torch.zeros(2, 4, 3, 3), p1=one, p2=one, beta=one), **arguments})


def test_a_second_derivative_is_refused():
    x = torch.randn(3, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(acon(x, **parameters((), (), ())).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()


class Module(torch.nn.Module):
    def forward(self, x):
        return acon(x, x.mean((0, 2)), x.amax((0, 2)), x.sum(2))


@needs_dynamic_export
def test_exports_with_batches_of_any_size():
    batch = torch.export.Dim('batch', min=1, max=64)
    x = torch.randn(2, 6, 8000)
    program = torch.export.export(Module(), (x,), dynamic_shapes=dict(x={0: batch}))
    assert len(program.graph.nodes) < 50, 'the blocks were exported'
    x = torch.randn(3, 6, 8000)
    torch.testing.assert_close(program.module()(x), Module()(x))


def test_traces_large_inputs_for_any_shape():
    x = torch.randn(2, 6, 8000)
    traced = torch.jit.trace(Module(), x)
    x = torch.randn(3, 6, 9)
    torch.testing.assert_close(traced(x), Module()(x))


@pytest.mark.parametrize(
    'dynamo',
    [False, pytest.param(True, marks=[pytest.mark.slow, needs_dynamo_exporter])],
    ids=['torchscript', 'dynamo'],
)
def test_onnxruntime_agrees_on_large_inputs(dynamo, tmp_path):
    onnxruntime = pytest.importorskip('onnxruntime')
    x, path = torch.randn(2, 6, 8000), str(tmp_path / 'acon.onnx')
    export_onnx(Module().eval(), (x,), path, dynamo, input_names=['x'])
    (got,) = onnxruntime.InferenceSession(path).run(None, {'x': x.numpy()})
    torch.testing.assert_close(torch.from_numpy(got), Module()(x), rtol=1e-4, atol=1e-4)

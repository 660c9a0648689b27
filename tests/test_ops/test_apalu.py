"""APALU against its formula under autograd, in float64. test_acon.py tests the blocks that both share."""

import mpmath
import pytest
import torch
from helpers.gradients import assert_agrees

from apa_mmdet.ops import apalu

SEVERAL_BLOCKS = (5, 6, 61, 103)


def formula(x, a, b):
    """As in the paper; the parameters broadcast."""
    return torch.where(x >= 0, a * (x + x * torch.sigmoid(1.702 * x)), b * (torch.exp(x) - 1))


def value_and_gradients(function, x, *params, grad=None):
    x = x.detach().requires_grad_()
    out = function(x, *params)
    grad = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out) if grad is None else grad
    return out.detach(), *torch.autograd.grad(out, (x, *params), grad)


def parameters(*shapes, dtype=torch.float64):
    return dict(zip('ab', (torch.rand(shape, dtype=dtype) for shape in shapes)))


@pytest.mark.parametrize('shape', [(), (0,), (7,), (3, 5), (2, 3, 5, 7), (0, 3, 4, 4), (70001,)])
def test_agrees_with_the_formula_on_any_shape(shape):
    assert_agrees(apalu, formula, torch.randn(shape, dtype=torch.float64) * 3, parameters((), ()), 1e-10)


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    'size, shapes',
    [
        ((5, 6, 4, 3), ((6,), (6,))),
        (SEVERAL_BLOCKS, ((), ())),
        (SEVERAL_BLOCKS, ((6,), (6,))),
        (SEVERAL_BLOCKS, ((), (5, 6))),
    ],
)
def test_agrees_with_the_formula_in_any_memory_order(memory_format, size, shapes):
    x = torch.randn(size, dtype=torch.float64).to(memory_format=memory_format)
    assert_agrees(apalu, formula, x, parameters(*shapes), 1e-10)


@pytest.mark.parametrize('shapes', [((1,), (1,)), ((4,), (4,))])
def test_gradcheck(shapes):
    x = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(apalu, (x, *(p.requires_grad_() for p in parameters(*shapes).values())))


@pytest.mark.parametrize('a, b', [(0.5, 0.75), (1e-3, 30.0), (30.0, 1e-3)])
@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 5e-7), (torch.float64, 3e-15)])
def test_value_and_slope_keep_their_digits(dtype, tolerance, a, b):
    size = torch.logspace(-8, 4, 200, dtype=torch.float64)
    x = torch.cat([size, -size]).to(dtype)
    a, b = torch.tensor(a, dtype=dtype, requires_grad=True), torch.tensor(b, dtype=dtype, requires_grad=True)
    out, slope, *_ = value_and_gradients(apalu, x, a, b, grad=torch.ones_like(x))
    with mpmath.workdps(40):

        def exact(x):
            above = x > 0
            return a.item() * (x + x / (1 + mpmath.exp(-1.702 * x))) if above else b.item() * mpmath.expm1(x)

        want = [exact(mpmath.mpf(t)) for t in x.tolist()]
        assert max(abs(got / exactly - 1) for got, exactly in zip(out.tolist(), want)) <= tolerance
        want = [mpmath.diff(exact, mpmath.mpf(t)) for t in x.tolist()]
        largest = [a.item() if t > 0 else b.item() for t in x.tolist()]
        assert max(abs(got - w) / size for got, w, size in zip(slope.tolist(), want, largest)) <= 2 * tolerance


def test_the_slope_at_0_is_that_from_below():
    x, a, b = torch.zeros(3, requires_grad=True), torch.tensor(1.0), torch.tensor(0.2)
    (slope,) = torch.autograd.grad(apalu(x, a, b).sum(), x)
    torch.testing.assert_close(slope, torch.full((3,), 0.2))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('a, b', [(0.5, 0.75), (1e-3, 10.0)])
def test_finite_for_every_finite_input(dtype, a, b):
    top = 1e4 if dtype == torch.float32 else torch.finfo(dtype).max
    x = torch.tensor([0.0, 1e-7, 1.0, 8.0, 17.0, 88.0, 104.0, 1e3, 1e4, top]).to(dtype)
    params = [torch.tensor([value], requires_grad=True) for value in (a, b)]
    out, *grads = value_and_gradients(apalu, torch.cat([x, -x]), *params)
    assert out.dtype == grads[0].dtype == dtype and grads[1].dtype == torch.float32
    for name, tensor in zip(('value', 'x', 'a', 'b'), (out, *grads)):
        assert tensor.isfinite().all(), f'{name} {tensor}'


def test_the_two_halves_meet_at_0():
    a, b = torch.tensor(0.8), torch.tensor(1.2)
    near = torch.tensor([-1e-4, -0.0, 0.0, 1e-4], dtype=torch.float64)
    out, slope, *_ = value_and_gradients(lambda x: apalu(x, a, b), near, grad=torch.ones(4, dtype=torch.float64))
    assert out.tolist() == pytest.approx([-1.2e-4, 0, 0, 1.2e-4], abs=1e-7)
    assert slope.tolist() == pytest.approx([1.2] * 4, abs=1e-3), 'b = 1.5·a: no kink'
    far = apalu(torch.tensor([-50.0, 50.0]), a, b)
    torch.testing.assert_close(far, torch.tensor([-1.2, 2 * 0.8 * 50]))


def test_keeps_only_its_arguments_for_backward():
    kept = []
    x = torch.randn(SEVERAL_BLOCKS, requires_grad=True)
    params = list(parameters((6,), (6,), dtype=torch.float32).values())
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        apalu(x, *params)
    assert [t.data_ptr() for t in kept] == [t.data_ptr() for t in (x, *params)]


@pytest.mark.parametrize(
    'arguments, error, line',
    [
        (dict(a=torch.ones(3)), ValueError, r'a has shape \(3,\), but an input of shape \(2, 4, 3, 3\) has 4 channels'),
        (dict(x=torch.ones(4, dtype=torch.int64)), TypeError, 'must have a floating point dtype, got torch.int64'),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, error, line):
    with pytest.raises(error, match=line):
        apalu(**{**dict(x=torch.zeros(2, 4, 3, 3), a=torch.ones(1), b=torch.ones(1)), **arguments})

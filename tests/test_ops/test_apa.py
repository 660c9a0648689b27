"""The functions of apa_mmdet.ops on every backend of a CPU: 60-digit arithmetic, the textbook formula, finite differences.

The compiled kernels serve float32 and the half precisions, the plain one all; Triton's have a file of their own.
"""

import numpy as np
import pytest
import torch
from helpers.recordings import load

from apa_mmdet import ops
from apa_mmdet.ops import reference
from apa_mmdet.ops.backends import analytic

FUNCTIONS = ['apa', 'aglu', 'neg_log_apa']


@pytest.fixture(params=['chosen', 'analytic'], autouse=True)
def backend(request):
    if request.param == 'chosen':
        yield
    else:
        with ops.use_backend(request.param):
            yield


def parameters(lambda_=0.4, kappa=1.2, shape=(1,), dtype=torch.float32):
    return (
        torch.full(shape, lambda_, dtype=dtype, requires_grad=True),
        torch.full(shape, kappa, dtype=dtype, requires_grad=True),
    )


def value_and_gradients(function, z, *params):
    z = z.clone().requires_grad_()
    out = function(z, *params)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return out.detach(), *torch.autograd.grad((out * weights).sum(), (z, *params))


@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize('name', ['apa', 'aglu'])
def test_every_column_of_the_truth(name, dtype, tolerance):
    truth = load('apa_truth.npz')
    rows = {column: truth['rows'][:, i] for i, column in enumerate(truth['columns'])}
    z, lambda_, kappa = (torch.tensor(rows[c], dtype=dtype, requires_grad=True) for c in ('z', 'lam', 'kappa'))
    # one row a channel: a parameter each
    out = getattr(ops, name)(z[None], lambda_, kappa)[0]
    grads = torch.autograd.grad(out.sum(), (z, lambda_, kappa))
    for column, got in zip((name, f'd{name}_dz', f'd{name}_dlam', f'd{name}_dkappa'), (out, *grads)):
        error = np.abs(got.detach().double().numpy() - rows[column]) / np.maximum(1, np.abs(rows[column]))
        assert error.max() <= tolerance, f'{column}: {error.max():.1e} at row {error.argmax()}'


@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_the_series_and_the_difference_meet(dtype, tolerance):
    """The accelerators' way to ∂/∂λ, which no CPU takes in float32, against 40 digits."""
    import mpmath

    w = torch.logspace(-10, 25, 701, dtype=torch.float64).to(dtype)
    w = torch.cat([w, torch.linspace(0.3, 0.7, 401, dtype=torch.float64).to(dtype)])
    with mpmath.workdps(40):
        want = [mpmath.log1p(x) - x / (1 + x) for x in map(mpmath.mpf, w.tolist())]
        got = analytic.difference_by_series(w, w.log1p()).tolist()
        assert max(abs(g / x - 1) for g, x in zip(got, want)) <= tolerance


@pytest.mark.parametrize('name', FUNCTIONS)
@pytest.mark.parametrize('shape', [(), (0,), (1,), (7,), (3, 5), (2, 3, 5, 7), (0, 3, 4, 4), (2, 3, 200, 301)])
def test_agrees_with_the_reference_on_any_shape(name, shape):
    z = torch.randn(shape, dtype=torch.float64) * 3
    params = parameters(shape=(), dtype=torch.float64)
    for got, want in zip(
        value_and_gradients(getattr(ops, name), z, *params), value_and_gradients(getattr(reference, name), z, *params)
    ):
        assert got.shape == want.shape
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('name', FUNCTIONS)
@pytest.mark.parametrize('layout', ['contiguous', 'channels_last', 'transposed', 'strided', 'expanded'])
@pytest.mark.parametrize('per_channel', [False, True])
@pytest.mark.parametrize('size', [(3, 6, 5, 4), (5, 6, 61, 103)])  # one block; several
def test_agrees_with_the_reference_in_any_memory_order(name, layout, per_channel, size):
    z = torch.randn(size, dtype=torch.float64)
    z = {
        'contiguous': lambda: z,
        'channels_last': lambda: z.to(memory_format=torch.channels_last),
        'transposed': lambda: z.transpose(2, 3),
        'strided': lambda: torch.cat([z, z], 3)[..., ::2],
        'expanded': lambda: z[..., :1].expand(size),
    }[layout]()
    channels = (6,) if per_channel else (1,)
    lambda_ = torch.linspace(0.1, 1.0, channels[0], dtype=torch.float64, requires_grad=True)
    kappa = torch.linspace(-1.0, 2.0, channels[0], dtype=torch.float64, requires_grad=True)

    def want_of(z):
        return getattr(reference, name)(z, lambda_.view(-1, 1, 1), kappa.view(-1, 1, 1))

    leaf = z.detach().requires_grad_()  # keeps its strides
    got = getattr(ops, name)(leaf, lambda_, kappa)
    want = want_of(leaf)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    weights = torch.randn_like(want)
    for a, b in zip(*(torch.autograd.grad((o * weights).sum(), (leaf, lambda_, kappa)) for o in (got, want))):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    # the same gradient in another memory order
    other_order = weights.transpose(0, 1).contiguous().transpose(0, 1)
    again = torch.autograd.grad(getattr(ops, name)(leaf, lambda_, kappa), (leaf, lambda_, kappa), other_order)
    for a, b in zip(again, torch.autograd.grad((want_of(leaf) * weights).sum(), (leaf, lambda_, kappa))):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('name', FUNCTIONS)
@pytest.mark.parametrize('lambda_, kappa', [(0.3, 1.1), (1.0, -0.5), (1e-3, 0.7)])
@pytest.mark.parametrize('shape', [(1,), (4,)])
def test_gradcheck(name, lambda_, kappa, shape):
    z = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(getattr(ops, name), (z, *parameters(lambda_, kappa, shape, torch.float64)))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('name', ['apa', 'aglu'])
@pytest.mark.parametrize('lambda_', [1e-4, 1e-2, 1.0, 20.0])
@pytest.mark.parametrize('kappa', [-10.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 10.0])
def test_finite_for_every_finite_input(dtype, name, lambda_, kappa):
    top = torch.finfo(dtype).max
    z = torch.tensor([0.0, 1e-7, 1.0, 8.0, 11.0, 60.0, 88.0, 104.0, 1e3, 6e4, min(top, 1e15), top]).to(dtype)
    z = torch.cat([z, -z])
    out, *grads = value_and_gradients(getattr(ops, name), z, *parameters(lambda_, kappa))
    assert out.dtype == dtype and grads[0].dtype == dtype and grads[1].dtype == torch.float32
    for name, tensor in zip(('value', 'dz', 'dlambda', 'dkappa'), (out, *grads)):
        assert tensor.isfinite().all(), f'{name} {tensor}'


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('name', ['apa', 'aglu'])
def test_half_precision_is_the_rounded_exact_value(dtype, name):
    z = (torch.randn(1000) * 4).to(dtype)
    out = value_and_gradients(getattr(ops, name), z, *parameters())[0]
    exact = getattr(reference, name)(z.double(), torch.tensor(0.4).double(), torch.tensor(1.2).double())
    # either side of a tie that float32 cannot tell from one
    assert ((out == (exact * (1 + 3e-7)).to(dtype)) | (out == (exact * (1 - 3e-7)).to(dtype))).all()


def before_activation(z, scale=None, shift=None, residual=None, residual_scale=None):
    """In PyTorch's words."""

    def spread(t):
        return t.reshape(*t.shape, *[1] * (z.dim() - 2))

    z = z if scale is None else z * spread(scale) + spread(shift)
    if residual is None:
        return z
    return z + (residual if residual_scale is None else residual * spread(residual_scale))


BEFORE = {
    'nothing': dict(),
    'scale per channel': dict(scale=(6,), shift=(6,)),
    'scale per image': dict(scale=(3, 6), shift=(6,)),
    'residual': dict(residual=None),
    'residual and scale': dict(scale=(3, 6), shift=(3, 6), residual=None),
    'all': dict(scale=(3, 6), shift=(3, 6), residual=None, residual_scale=(6,)),
    'residual per image': dict(residual=None, residual_scale=(3, 6)),
}


@pytest.mark.parametrize('before', BEFORE.values(), ids=BEFORE.keys())
@pytest.mark.parametrize('lambda_shape, kappa_shape', [((1,), (1,)), ((6,), (6,)), ((6,), (1,)), ((1,), (6,))])
@pytest.mark.parametrize(
    'shape, memory_format',
    [
        ((3, 6), torch.contiguous_format),
        ((3, 6, 150, 113), torch.contiguous_format),
        ((3, 6, 50, 60), torch.channels_last),
        ((3, 6, 2, 3, 4), torch.channels_last_3d),
        ((0, 6, 2, 2), torch.contiguous_format),
    ],
)
@pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-9), (torch.float32, 2e-4)])
def test_scale_shift_and_residual(before, lambda_shape, kappa_shape, shape, memory_format, dtype, tolerance):
    z = torch.randn(shape).to(memory_format=memory_format).to(dtype).requires_grad_()
    lambda_, kappa = (torch.rand(size, dtype=dtype).add_(0.3).requires_grad_() for size in (lambda_shape, kappa_shape))
    extra = {
        key: torch.randn(
            shape if size is None else (shape[0], 6) if len(size) == 2 else size, dtype=dtype, requires_grad=True
        )
        for key, size in before.items()
    }
    leaves = (z, lambda_, kappa, *extra.values())
    got = ops.aglu(z, lambda_, kappa, **extra)
    per_channel = [p if p.numel() == 1 else p.view(-1, *[1] * (len(shape) - 2)) for p in (lambda_, kappa)]
    want = reference.aglu(before_activation(z, **extra), *per_channel)
    assert got.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance / 10)
    weights = torch.randn_like(want)
    for a, b in zip(*(torch.autograd.grad((o * weights).sum(), leaves) for o in (got, want))):
        torch.testing.assert_close(
            a, b, rtol=tolerance, atol=tolerance * (1 + b.abs().max().item() if b.numel() else 1)
        )


def test_gradcheck_of_scale_shift_and_residual():
    z, residual = (torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    scale, shift, residual_scale = (torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(3))
    assert torch.autograd.gradcheck(
        ops.aglu, (z, *parameters(dtype=torch.float64), scale, shift, residual, residual_scale)
    )


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_with_scale_and_residual_rounds_once(dtype):
    z, residual = torch.randn(2, 4, 30, 30).to(dtype), torch.randn(2, 4, 30, 30).to(dtype)
    scale, shift = torch.rand(2, 4) + 0.5, torch.randn(2, 4)
    out = ops.aglu(z, *parameters(), scale, shift, residual)
    exact = ops.aglu(z.double(), *parameters(), scale, shift, residual.double())
    assert out.dtype == dtype
    bound = exact.abs() * torch.finfo(dtype).eps / 2 + 1e-6
    assert ((out.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize('name', FUNCTIONS)
def test_nan_stays_nan_where_it_is(name):
    z = torch.randn(2, 3, 17)
    z[1, 2, 5] = torch.nan
    out, grad, *_ = value_and_gradients(getattr(ops, name), z, *parameters())
    assert torch.equal(out.isnan(), z.isnan()) and torch.equal(grad.isnan(), z.isnan())


@pytest.mark.parametrize('name', FUNCTIONS)
@pytest.mark.parametrize('lambda_, kappa', [(0.4, torch.nan), (torch.nan, 1.2)])
@pytest.mark.parametrize('shape', [(1,), (3,)])
def test_a_parameter_that_is_nan_is_not_hidden(name, lambda_, kappa, shape):
    params = parameters(lambda_, kappa, shape)
    out, grad, *_ = value_and_gradients(getattr(ops, name), torch.randn(2, 3, 17), *params)
    assert out.isnan().all() and grad.isnan().all()


def test_other_devices_and_dtypes_are_refused():
    one = torch.ones(1)
    with pytest.raises(ValueError, match='kappa is on meta, but the input on cpu'):
        ops.aglu(torch.zeros(3), one, one.to('meta'))
    with pytest.raises(TypeError, match='floating point dtype, got torch.int64'):
        ops.apa(torch.arange(3), one, one)


@pytest.mark.parametrize(
    'arguments, line',
    [
        (dict(scale=torch.ones(4)), 'scale and shift go together'),
        (dict(shift=torch.ones(4)), 'scale and shift go together'),
        (dict(residual_scale=torch.ones(4)), 'residual_scale is given without a residual'),
        (dict(residual=torch.ones(2, 4, 3, 1)), r'residual has shape \(2, 4, 3, 1\), but the input \(2, 4, 3, 3\)'),
        (
            dict(scale=torch.ones(3), shift=torch.ones(4)),
            r'scale has shape \(3,\); an input of shape \(2, 4, 3, 3\) takes one',
        ),
        (dict(scale=torch.ones(4), shift=torch.ones(2, 4, 1)), r'shift has shape \(2, 4, 1\)'),
    ],
)
def test_what_does_not_fit_gets_one_clear_line(arguments, line):
    with pytest.raises(ValueError, match=line):
        ops.aglu(torch.zeros(2, 4, 3, 3), *parameters(), **arguments)


def test_special_cases():
    z, one = torch.linspace(-6, 6, 101), torch.ones(1)
    torch.testing.assert_close(ops.apa(z, one, one), torch.sigmoid(z))
    torch.testing.assert_close(ops.aglu(z, one, one), torch.nn.functional.silu(z))
    gumbel = torch.exp(-torch.exp(-z))
    torch.testing.assert_close(ops.apa(z, one * 0, one), gumbel, rtol=0, atol=1e-4)  # λ at its floor
    torch.testing.assert_close(ops.aglu(z, one, one * 1e4), z.relu())


def test_lambda_below_the_floor_counts_as_the_floor_and_has_no_gradient():
    z = torch.randn(20)
    below, at = torch.tensor([-3.0], requires_grad=True), torch.tensor([1e-4])
    out = ops.aglu(z, below, torch.ones(1))
    assert torch.equal(out, ops.aglu(z, at, torch.ones(1)))
    out.sum().backward()
    assert below.grad.item() == 0


def test_saves_only_its_input_and_two_scalars():
    kept = []
    z, params = torch.randn(2, 3, 40, 50, requires_grad=True), parameters()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        ops.aglu(z, *params)
    large = [t for t in kept if t.numel() > 1]
    assert [t.data_ptr() for t in large] == [z.data_ptr()]


@pytest.mark.parametrize('name', FUNCTIONS)
def test_under_autocast_the_dtype_stays(name):
    z, params = torch.randn(4, 4, dtype=torch.bfloat16, requires_grad=True), parameters()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = getattr(ops, name)(z, *params)
    out.float().sum().backward()
    assert out.dtype == z.grad.dtype == torch.bfloat16
    assert params[0].grad.dtype == params[1].grad.dtype == torch.float32


def test_wrong_channel_count_says_which_parameter_and_what_fits():
    with pytest.raises(ValueError, match=r'lambda_ holds \(3,\) values, .* has 5 channels'):
        ops.apa(torch.zeros(2, 5, 4, 4), torch.ones(3), torch.ones(1))
    with pytest.raises(ValueError, match=r'kappa holds \(2,\) values, .* has 1 channels'):
        ops.aglu(torch.zeros(8), torch.ones(1), torch.ones(2))

"""APA, AGLU and −log APA on the backends of a CPU, against 60-digit values, the formula and finite differences.

The compiled kernels serve float32 and the half precisions, the analytic backend all dtypes. The kernels are called by
the extension (float32) or by Python. test_backends/test_triton.py tests Triton's kernels.
"""

import numpy as np
import pytest
import torch
from helpers.gradients import LAYOUTS, assert_agrees
from helpers.preceding import BEFORE, draw, formula_of, require_extension, with_norms, without_extension
from helpers.recordings import load

from apa_mmdet import ops
from apa_mmdet.ops import reference
from apa_mmdet.ops.backends import analytic

FUNCTIONS = ['apa', 'aglu', 'neg_log_apa']
SINGLE_BACKENDS = {  # the most exact dtype of each, and its tolerance
    'extension': (torch.float32, 2e-6),
    'cpu': (torch.float32, 2e-6),
    'analytic': (torch.float64, 1e-10),
}
ONE_BLOCK, SEVERAL_BLOCKS = (5, 6, 4, 3), (5, 6, 61, 103)


@pytest.fixture(params=SINGLE_BACKENDS)
def backend(request, monkeypatch):
    """Tests in float32 and half precision run once on each backend, the kernels also without the extension."""
    if request.param == 'cpu':
        without_extension(monkeypatch)
    with ops.use_backend(request.param.replace('extension', 'cpu')):
        if request.param == 'extension':
            require_extension()
        yield request.param


@pytest.fixture
def dtype_and_tolerance(backend):
    """Tests of indices and memory run once on each backend, in its most exact dtype."""
    return SINGLE_BACKENDS[backend]


def parameters(lambda_=0.4, kappa=1.2, shape=(1,), dtype=torch.float32):
    return (
        torch.full(shape, lambda_, dtype=dtype, requires_grad=True),
        torch.full(shape, kappa, dtype=dtype, requires_grad=True),
    )


def drawn(dtype, lambda_shape, kappa_shape):
    return dict(lambda_=torch.rand(lambda_shape, dtype=dtype) + 0.1, kappa=torch.randn(kappa_shape, dtype=dtype))


def value_and_gradients(function, z, *params, **given):
    z = z.clone().requires_grad_()
    out = function(z, *params, **given)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    return out.detach(), *torch.autograd.grad((out * weights).sum(), (z, *params))


@pytest.mark.parametrize(
    'backend, dtype, tolerance',
    [('cpu', torch.float32, 1e-6), ('analytic', torch.float32, 1e-6), ('analytic', torch.float64, 1e-12)],
)
@pytest.mark.parametrize('name', ['apa', 'aglu'])
def test_agrees_with_60_digit_values_and_derivatives(name, backend, dtype, tolerance):
    truth = load('apa_truth.npz')
    rows = {column: truth['rows'][:, i] for i, column in enumerate(truth['columns'])}
    z, lambda_, kappa = (torch.tensor(rows[c], dtype=dtype, requires_grad=True) for c in ('z', 'lam', 'kappa'))
    with ops.use_backend(backend):
        out = getattr(ops, name)(z[None], lambda_, kappa)[0]  # a row is a channel, with parameters of its own
        grads = torch.autograd.grad(out.sum(), (z, lambda_, kappa))
    for column, got in zip((name, f'd{name}_dz', f'd{name}_dlam', f'd{name}_dkappa'), (out, *grads)):
        error = np.abs(got.detach().double().numpy() - rows[column]) / np.maximum(1, np.abs(rows[column]))
        assert error.max() <= tolerance, f'{column}: {error.max():.1e} at row {error.argmax()}'


@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_difference_by_series_is_exact_where_it_meets_the_plain_difference(dtype, tolerance):
    """The derivative to λ on accelerators, which no CPU computes so in float32, against 40 digits."""
    import mpmath

    w = torch.logspace(-10, 25, 701, dtype=torch.float64).to(dtype)
    w = torch.cat([w, torch.linspace(0.3, 0.7, 401, dtype=torch.float64).to(dtype)])
    with mpmath.workdps(40):
        want = [mpmath.log1p(x) - x / (1 + x) for x in map(mpmath.mpf, w.tolist())]
        got = analytic.difference_by_series(w, w.log1p()).tolist()
        assert max(abs(g / x - 1) for g, x in zip(got, want)) <= tolerance


@pytest.mark.parametrize('name', FUNCTIONS)
@pytest.mark.parametrize('shape', [(), (0,), (1,), (7,), (3, 5), (0, 3, 4, 4), (2, 3, 200, 301)])
def test_agrees_with_the_formula_on_any_shape(name, shape, dtype_and_tolerance):
    dtype, tolerance = dtype_and_tolerance
    z = torch.randn(shape, dtype=dtype) * 3
    assert_agrees(getattr(ops, name), formula_of(name), z, drawn(dtype, (), ()), tolerance)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize(
    'name, lambda_shape, kappa_shape', [('apa', (), ()), ('aglu', (6,), ()), ('neg_log_apa', (1,), (6,))]
)
@pytest.mark.parametrize('size', [ONE_BLOCK, SEVERAL_BLOCKS])
def test_agrees_with_the_formula_in_any_memory_order(
    layout, name, lambda_shape, kappa_shape, size, dtype_and_tolerance
):
    dtype, tolerance = dtype_and_tolerance
    z, params = LAYOUTS[layout](torch.randn(size, dtype=dtype)), drawn(dtype, lambda_shape, kappa_shape)
    out = assert_agrees(getattr(ops, name), formula_of(name), z, params, tolerance)
    if layout in ('contiguous', 'channels_last'):
        assert out.stride() == z.stride()
    grad = torch.randn(size, dtype=dtype).transpose(0, 1).contiguous().transpose(0, 1)  # in an order of its own
    assert_agrees(getattr(ops, name), formula_of(name), z, params, tolerance, grad)


MEMORY_FORMATS = [
    ((5, 6), torch.contiguous_format),
    (ONE_BLOCK, torch.contiguous_format),
    (ONE_BLOCK, torch.channels_last),
    ((5, 6, 2, 3, 4), torch.channels_last_3d),
    ((0, 6, 2, 2), torch.contiguous_format),
    ((2, 0, 2, 2), torch.channels_last),
    ((2, 6, 3, 0), torch.contiguous_format),
]
PARAMETER_SHAPES = [('one', 'one'), ('channels', 'channels'), ('channels', 'one'), ('one', 'channels')]


def check_preceded(before, shape, memory_format, turn, dtype, tolerance):
    z = torch.randn(shape, dtype=dtype).to(memory_format=memory_format)
    sizes = dict(one=(1,), channels=shape[1:2])
    given, statistics = draw(BEFORE[before], z)
    params = drawn(dtype, *(sizes[size] for size in PARAMETER_SHAPES[turn % len(PARAMETER_SHAPES)])) | given
    out = assert_agrees(with_norms(ops.aglu, statistics), formula_of('aglu', statistics), z, params, 4 * tolerance)
    assert out.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize('before', BEFORE)
def test_norms_gate_and_residual(before, dtype_and_tolerance):
    """Every combination of what precedes the activation with every memory format; parameter shapes take turns."""
    for i, (shape, memory_format) in enumerate(MEMORY_FORMATS):
        check_preceded(before, shape, memory_format, list(BEFORE).index(before) + i, *dtype_and_tolerance)


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('before', ['norm', 'norm gate residual', 'all'])
def test_norms_gate_and_residual_in_several_blocks(before, memory_format, dtype_and_tolerance):
    check_preceded(before, (2, 6, 127, 131), memory_format, len(before), *dtype_and_tolerance)


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_agrees_with_a_batch_norm_in_eval_mode(memory_format, backend):
    norm, z = torch.nn.BatchNorm2d(6).eval(), torch.randn(2, 6, 7, 5).to(memory_format=memory_format)
    torch.nn.init.normal_(norm.running_mean)
    torch.nn.init.uniform_(norm.running_var, 1e-6, 1e-4)  # where eps counts
    torch.nn.init.normal_(norm.weight)
    tensors = ops.Norm(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
    leaves, results = (z.requires_grad_(), norm.weight, norm.bias), []
    for out in (ops.aglu(z, *parameters(), tensors), ops.aglu(norm(z), *parameters())):
        results.append((out, *torch.autograd.grad(out.sum(), leaves)))
    for got, want in zip(*results):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * want.abs().max().item())


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_parameters_and_gradients_that_are_not_contiguous(memory_format, dtype_and_tolerance):
    dtype, tolerance = dtype_and_tolerance
    z = torch.randn(ONE_BLOCK, dtype=dtype).to(memory_format=memory_format)
    given, statistics = draw(BEFORE['all'], z)
    spaced = {
        key: torch.stack([t, t], -1)[..., 0] if t.dim() < 4 else t.transpose(2, 3).contiguous().transpose(2, 3)
        for key, t in (drawn(dtype, (6,), (6,)) | given).items()
    }
    function, formula = with_norms(ops.aglu, statistics), formula_of('aglu', statistics)
    assert_agrees(function, formula, z, spaced, 4 * tolerance)
    for grad in (torch.randn(()), torch.randn(ONE_BLOCK[::-1]).permute(3, 2, 1, 0)):
        assert_agrees(function, formula, z, spaced, 4 * tolerance, grad.to(dtype).expand(ONE_BLOCK))


@pytest.mark.parametrize(
    'needed', [('x',), ('lambda_', 'bias'), ('gate',), ('residual', 'residual_weight'), ('kappa',)]
)
def test_only_what_requires_a_gradient_gets_one(needed, dtype_and_tolerance):
    dtype, tolerance = dtype_and_tolerance
    z = torch.randn(ONE_BLOCK, dtype=dtype)
    given, statistics = draw(BEFORE['all'], z)
    given = dict(x=z, **drawn(dtype, (6,), (1,)), **given)
    function, results = with_norms(ops.aglu, statistics), []
    for names in (needed, given):
        leaves = {key: t.detach().clone().requires_grad_(key in names) for key, t in given.items()}
        function(**leaves).sum().backward()
        results.append(leaves)
    for key in given:
        assert (results[0][key].grad is not None) == (key in needed), key
        if key in needed:
            assert torch.equal(results[0][key].grad, results[1][key].grad), key


@pytest.mark.parametrize('name', FUNCTIONS)
def test_gradcheck(name):
    lambda_, kappa = torch.cartesian_prod(*torch.tensor([[1e-3, 0.3, 1.0], [-0.5, 0.7, 1.1]]).double()).T
    z = torch.randn(3, 9, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(getattr(ops, name), (z, lambda_.requires_grad_(), kappa.requires_grad_()))
    assert torch.autograd.gradcheck(getattr(ops, name), (z, *parameters(dtype=torch.float64)))


def test_gradcheck_of_norms_gate_and_residual():
    z = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    given, statistics = draw(BEFORE['all'], z)
    function = with_norms(ops.aglu, statistics)
    inputs = [z, *parameters(dtype=torch.float64), *(t.requires_grad_() for t in given.values())]
    assert torch.autograd.gradcheck(lambda *values: function(*values[:3], **dict(zip(given, values[3:]))), inputs)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('name', FUNCTIONS)
def test_finite_for_every_finite_input(name, dtype, backend):
    top = torch.finfo(dtype).max
    size = torch.tensor([0.0, 1e-7, 1.0, 8.0, 11.0, 60.0, 88.0, 104.0, 1e3, 6e4, min(top, 1e15), top]).to(dtype)
    kappas = torch.tensor([-10.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 10.0])
    lambda_, kappa = torch.cartesian_prod(torch.tensor([1e-4, 1e-2, 1.0, 20.0]), kappas).T
    z = torch.cat([size, -size])[:, None].repeat(1, len(kappa))  # a channel for each pair of parameters
    if name == 'neg_log_apa':  # grows as κz/λ, beyond any dtype
        z, lambda_, kappa = z.clamp(-1e3, 1e3), lambda_.clamp(min=1e-1), kappa.clamp(-1, 1)
    params = lambda_.clone().requires_grad_(), kappa.clone().requires_grad_()
    out, *grads = value_and_gradients(getattr(ops, name), z, *params)
    assert out.dtype == dtype and grads[0].dtype == dtype and grads[1].dtype == torch.float32
    for result, tensor in zip(('value', 'dz', 'dlambda', 'dkappa'), (out, *grads)):
        assert tensor.isfinite().all(), f'{result} {tensor}'


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('name', ['apa', 'aglu'])
def test_half_precision_is_the_rounded_exact_value(dtype, name, backend):
    z = (torch.randn(1000) * 4).to(dtype)
    out = value_and_gradients(getattr(ops, name), z, *parameters())[0]
    exact = getattr(reference, name)(z.double(), torch.tensor(0.4).double(), torch.tensor(1.2).double())
    # either side of a tie that float32 cannot tell from one
    assert ((out == (exact * (1 + 3e-7)).to(dtype)) | (out == (exact * (1 - 3e-7)).to(dtype))).all()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_with_norm_gate_and_residual_rounds_once(dtype, backend):
    z, residual = torch.randn(2, 4, 30, 30).to(dtype), torch.randn(2, 4, 30, 30).to(dtype)
    rest = ops.Norm(weight=torch.rand(4) + 0.5, bias=torch.randn(4)), torch.rand(2, 4)
    out = ops.aglu(z, *parameters(), *rest, residual)
    with ops.use_backend('analytic'):
        exact = ops.aglu(z.double(), *parameters(), *rest, residual.double())
    assert out.dtype == dtype
    bound = exact.abs() * torch.finfo(dtype).eps / 2 + 1e-6
    assert ((out.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize('name', FUNCTIONS)
def test_nan_stays_nan_where_it_is(name, backend):
    z = torch.randn(2, 3, 17)
    z[1, 2, 5] = torch.nan
    out, grad, *_ = value_and_gradients(getattr(ops, name), z, *parameters())
    assert torch.equal(out.isnan(), z.isnan()) and torch.equal(grad.isnan(), z.isnan())


@pytest.mark.parametrize('name', FUNCTIONS)
@pytest.mark.parametrize('lambda_, kappa, shape', [(0.4, torch.nan, (1,)), (torch.nan, 1.2, (3,))])
def test_a_nan_parameter_is_not_hidden(name, lambda_, kappa, shape, backend):
    params = parameters(lambda_, kappa, shape)
    out, grad, *_ = value_and_gradients(getattr(ops, name), torch.randn(2, 3, 17), *params)
    assert out.isnan().all() and grad.isnan().all()


@pytest.mark.parametrize('name', ['mean', 'var', 'weight', 'bias', 'gate', 'residual_mean', 'residual_bias'])
def test_a_nan_in_a_norm_or_a_gate_is_not_hidden(name, backend):
    z = torch.randn(2, 3, 17)
    given, statistics = draw(BEFORE['all'], z)
    {**given, **statistics}[name][..., 1] = torch.nan
    out, grad, *_ = value_and_gradients(with_norms(ops.aglu, statistics), z, *parameters(), **given)
    assert out.isnan().all(2).all(0).tolist() == grad.isnan().all(2).all(0).tolist() == [False, True, False]


def test_other_devices_and_dtypes_are_refused():
    one = torch.ones(1)
    with pytest.raises(ValueError, match='kappa is on meta, but the input is on cpu'):
        ops.aglu(torch.zeros(3), one, one.to('meta'))
    with pytest.raises(TypeError, match='floating point dtype, got torch.int64'):
        ops.apa(torch.arange(3), one, one)


X = torch.zeros(2, 4, 3, 3)


@pytest.mark.parametrize(
    'arguments, line',
    [
        (dict(norm=ops.Norm(mean=torch.ones(4))), 'mean and var of a norm go together'),
        (dict(residual=X, residual_norm=ops.Norm(var=torch.ones(4))), 'mean and var of a norm go together'),
        (dict(residual_norm=ops.Norm(weight=torch.ones(4))), 'residual_norm is given without a residual'),
        (dict(residual=X[..., :1]), r'residual has shape \(2, 4, 3, 1\), but the input has \(2, 4, 3, 3\)'),
        (
            dict(norm=ops.Norm(weight=torch.ones(3))),
            r'weight has shape \(3,\), but an input of shape \(2, 4, 3, 3\) has 4',
        ),
        (dict(norm=ops.Norm(bias=torch.ones(1, 4))), r'bias has shape \(1, 4\), .* give one value per channel'),
        (dict(norm=ops.Norm(bias=torch.ones(1))), r'bias has shape \(1,\), .* give one value per channel'),
        (dict(residual=X, residual_norm=ops.Norm(bias=torch.ones(5))), r'residual_bias has shape \(5,\)'),
        (
            dict(gate=torch.ones(4)),
            r'gate has shape \(4,\); an input of shape \(2, 4, 3, 3\) takes one value per image',
        ),
        (dict(gate=torch.ones(2, 4, 1)), r'gate has shape \(2, 4, 1\)'),
        (dict(gate=torch.ones(1, 4)), r'gate has shape \(1, 4\)'),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, line):
    with pytest.raises(ValueError, match=line):
        ops.aglu(X, *parameters(), **arguments)


def test_a_norm_of_a_vector_is_refused():
    with pytest.raises(ValueError, match=r'weight has shape \(1,\), but an input of shape \(3,\)'):
        ops.aglu(torch.zeros(3), *parameters(), ops.Norm(weight=torch.ones(1)))


def test_special_cases(backend):
    z, one = torch.linspace(-6, 6, 101), torch.ones(1)
    torch.testing.assert_close(ops.apa(z, one, one), torch.sigmoid(z))
    torch.testing.assert_close(ops.aglu(z, one, one), torch.nn.functional.silu(z))
    gumbel = torch.exp(-torch.exp(-z))
    torch.testing.assert_close(ops.apa(z, one * 0, one), gumbel, rtol=0, atol=1e-4)  # λ at its floor
    torch.testing.assert_close(ops.aglu(z, one, one * 1e4), z.relu())


def test_lambda_below_the_floor_counts_as_the_floor_and_has_no_gradient(backend):
    z = torch.randn(20)
    below, at = torch.tensor([-3.0], requires_grad=True), torch.tensor([1e-4])
    out = ops.aglu(z, below, torch.ones(1))
    assert torch.equal(out, ops.aglu(z, at, torch.ones(1)))
    out.sum().backward()
    assert below.grad.item() == 0


def test_saves_only_its_input_and_two_scalars(backend):
    kept = []
    z, params = torch.randn(2, 3, 40, 50, requires_grad=True), parameters()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        ops.aglu(z, *params)
    large = [t for t in kept if t.numel() > 1]
    assert [t.data_ptr() for t in large] == [z.data_ptr()]


@pytest.mark.parametrize('name', FUNCTIONS)
def test_under_autocast_the_dtype_stays(name, backend):
    z, params = torch.randn(4, 4, dtype=torch.bfloat16, requires_grad=True), parameters()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = getattr(ops, name)(z, *params)
    out.float().sum().backward()
    assert out.dtype == z.grad.dtype == torch.bfloat16
    assert params[0].grad.dtype == params[1].grad.dtype == torch.float32


def test_a_wrong_channel_count_names_the_parameter_and_the_channels():
    with pytest.raises(
        ValueError, match=r'lambda_ has shape \(3,\), .* has 5 channels: give one value, or one per channel'
    ):
        ops.apa(torch.zeros(2, 5, 4, 4), torch.ones(3), torch.ones(1))
    with pytest.raises(ValueError, match=r'kappa has shape \(2,\), .* has 1 channels'):
        ops.aglu(torch.zeros(8), torch.ones(1), torch.ones(2))

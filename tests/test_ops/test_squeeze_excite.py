"""The operator for the gates of squeeze and excitation, against the formula in float64."""

import pytest
import torch
from helpers.preceding import require_extension, without_extension
from torch.nn.functional import layer_norm

from apa_mmdet import ops
from apa_mmdet.ops import reference

SHAPE, WIDTH = (3, 70, 9, 37), 5  # more channels than the kernel sums side by side in channels_last


def arguments(shape=SHAPE, curve=1, has_layer_norm=True):
    """Tensors by name; those without a gradient are the statistics."""
    channels = shape[1]
    given = dict(
        x=torch.randn(shape) + 0.3,
        mean=torch.randn(channels),
        var=torch.rand(channels) + 0.1,
        weight=torch.randn(channels),
        bias=torch.randn(channels),
        layer_weight=torch.randn(channels),
        layer_bias=torch.randn(channels),
        fc1=torch.randn(WIDTH, channels) / channels**0.5,
        fc2=torch.randn(channels, WIDTH),
        lambda_=torch.rand(curve) + 0.1,
        kappa=torch.randn(curve),
    )
    if not has_layer_norm:
        del given['layer_weight'], given['layer_bias']
    return given


def gates(x, mean, var, weight, bias, fc1, fc2, lambda_, kappa, layer_weight=None, layer_bias=None, dropout=0.0):
    layer = None if layer_weight is None else ops.Norm(weight=layer_weight, bias=layer_bias, eps=0.03)
    return ops.squeeze_excite(x, ops.Norm(mean, var, weight, bias, 0.01), layer, fc1, fc2, lambda_, kappa, dropout)


def formula(x, mean, var, weight, bias, fc1, fc2, lambda_, kappa, layer_weight=None, layer_bias=None, mask=1.0):
    spread = [t[:, None, None] for t in (mean, var, weight, bias)]
    u = ((x - spread[0]) / (spread[1] + 0.01).sqrt() * spread[2] + spread[3]).mean((2, 3))
    t = u if layer_weight is None else layer_norm(u, u.shape[1:], layer_weight, layer_bias, 0.03)
    return reference.apa((t @ fc1.T).relu() @ fc2.T * mask, lambda_, kappa)


def value_and_gradients(function, given, weights, **options):
    leaves = {key: t.detach().requires_grad_(key not in ('mean', 'var')) for key, t in given.items()}
    out = function(**leaves, **options)
    (out * weights.to(out.dtype)).sum().backward()
    return dict(value=out.detach(), **{key: t.grad for key, t in leaves.items() if t.requires_grad})


def assert_agrees(given, **options):
    weights = torch.randn(given['x'].shape[:2])
    got = value_and_gradients(gates, given, weights, **options)
    want = value_and_gradients(formula, {key: t.double() for key, t in given.items()}, weights)
    for key, tensor in want.items():
        assert got[key].dtype == torch.float32 and got[key].shape == tensor.shape, key
        scale = tensor.abs().max().item()
        torch.testing.assert_close(
            got[key].double(), tensor, rtol=1e-4, atol=1e-5 * scale, msg=lambda text, key=key: f'{key}: {text}'
        )
    return got


@pytest.fixture(autouse=True)
def built():
    require_extension()


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('shape', [SHAPE, (1, 2, 1, 1), (2, 130, 1, 1), (2, 3, 40, 61)])
def test_agrees_with_the_formula(shape, memory_format):
    given = arguments(shape)
    assert_agrees(dict(given, x=given['x'].to(memory_format=memory_format)))


@pytest.mark.parametrize('curve', [1, SHAPE[1]])
@pytest.mark.parametrize('has_layer_norm', [False, True])
def test_agrees_per_channel_and_without_a_layer_norm(curve, has_layer_norm):
    assert_agrees(arguments(curve=curve, has_layer_norm=has_layer_norm))


def test_agrees_without_parts_of_the_norms():
    given = arguments()
    ones, zeros = torch.ones(SHAPE[1]), torch.zeros(SHAPE[1])
    full = dict(given, mean=zeros, var=ones * 0.99, weight=ones, bias=zeros, layer_weight=ones, layer_bias=zeros)
    rest = given['fc1'], given['fc2'], given['lambda_'], given['kappa'], 0.0
    got = ops.squeeze_excite(given['x'], ops.Norm(), ops.Norm(eps=0.03), *rest)
    torch.testing.assert_close(got, gates(**full))


def test_a_gradient_in_another_memory_order():
    given = {key: t.requires_grad_(key not in ('mean', 'var')) for key, t in arguments().items()}
    leaves, results = [t for t in given.values() if t.requires_grad], []
    for grad in (torch.ones(SHAPE[:2]), torch.ones(()).expand(SHAPE[:2]), torch.ones(SHAPE[1::-1]).T):
        results.append(torch.autograd.grad(gates(**given), leaves, grad))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize('needed', [('x',), ('fc2',), ('weight', 'lambda_'), ('layer_bias', 'kappa')])
def test_only_what_requires_a_gradient_gets_one(needed):
    given = arguments()
    want = value_and_gradients(gates, given, torch.ones(SHAPE[:2]))
    leaves = {key: t.detach().requires_grad_(key in needed) for key, t in given.items()}
    gates(**leaves).sum().backward()
    for key, tensor in leaves.items():
        assert (tensor.grad is not None) == (key in needed), key
        assert key not in needed or torch.equal(tensor.grad, want[key]), key


def test_dropout_draws_what_torch_draws():
    given = arguments()
    torch.manual_seed(5)
    mask = torch.nn.functional.dropout(torch.ones(SHAPE[:2]), 0.4)
    after = torch.rand(1)
    torch.manual_seed(5)
    got = value_and_gradients(gates, given, torch.ones(SHAPE[:2]), dropout=0.4)
    assert torch.equal(torch.rand(1), after)
    want = value_and_gradients(formula, {k: t.double() for k, t in given.items()}, torch.ones(SHAPE[:2]), mask=mask)
    for key, tensor in want.items():
        torch.testing.assert_close(got[key].double(), tensor, rtol=1e-4, atol=1e-5 * tensor.abs().max().item())


def test_lambda_below_the_floor_counts_as_the_floor_and_has_no_gradient():
    given = arguments(curve=SHAPE[1])
    given['lambda_'][::2] = -1.0
    got = value_and_gradients(gates, given, torch.ones(SHAPE[:2]))
    at = value_and_gradients(gates, dict(given, lambda_=given['lambda_'].clamp(min=1e-4)), torch.ones(SHAPE[:2]))
    assert torch.equal(got['value'], at['value']) and torch.equal(got['fc1'], at['fc1'])
    assert (got['lambda_'][::2] == 0).all() and torch.equal(got['lambda_'][1::2], at['lambda_'][1::2])


@pytest.mark.parametrize(
    'name', ['x', 'mean', 'var', 'weight', 'bias', 'layer_weight', 'fc1', 'fc2', 'lambda_', 'kappa']
)
def test_nan_is_not_hidden(name):
    given = arguments()
    given[name].flatten()[0] = torch.nan
    got = value_and_gradients(gates, given, torch.ones(SHAPE[:2]))
    first = got['value'][0]  # of fc2, one channel's gate; of all others, each gate of the first image
    assert first[0].isnan() if name == 'fc2' else first.isnan().all()
    assert got['x'][0].isnan().any()


def test_results_do_not_depend_on_the_number_of_threads():
    given, threads, results = arguments(), torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            results.append(value_and_gradients(gates, given, torch.ones(SHAPE[:2])))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(results[0][key], other[key]) for key in other)


def test_a_second_derivative_is_refused():
    given = {key: t.requires_grad_() for key, t in arguments().items()}
    (grad,) = torch.autograd.grad(gates(**given).square().sum(), given['x'], create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()


@pytest.mark.parametrize(
    'change',
    [
        dict(x=lambda x: x.double()),
        dict(x=lambda x: x.bfloat16()),
        dict(x=lambda x: x.transpose(2, 3)),
        dict(x=lambda x: x[:, :, 0]),
        dict(x=lambda x: x[:0]),
        dict(x=lambda x: x[:, :, :0]),
        dict(x=lambda x: x.to('meta')),
        dict(fc1=lambda t: t.half()),
        dict(fc2=lambda t: t.T.contiguous().T),
        dict(fc2=lambda t: t[:, 1:].contiguous()),
        dict(weight=lambda t: t[1:]),
        dict(kappa=lambda t: torch.nn.Parameter(t).as_subclass(type('Named', (torch.Tensor,), {}))),
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_not_served_gives_none(change):
    given = arguments()
    assert gates(**given) is not None
    assert gates(**{key: change[key](t) if key in change else t for key, t in given.items()}) is None


def test_without_the_extension_nothing_is_served(monkeypatch):
    without_extension(monkeypatch)
    assert gates(**arguments()) is None

"""The operator under everything that transforms PyTorch code, with the extension and without it."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers.preceding import BEFORE, draw, require_extension, without_extension
from helpers.torch_features import compiles_in_one_graph, needs_dynamic_export, needs_opcheck
from torch.utils.checkpoint import checkpoint

from apa_mmdet import ops
from apa_mmdet.ops.memory_layout import DIFFERENTIABLE, Arguments

OPERATOR = torch.ops.apa_mmdet.parametric.default
BACKWARD = torch.ops.apa_mmdet.parametric_backward.default
ALL = [True] * len(DIFFERENTIABLE)


@pytest.fixture(params=['extension', 'python'])
def host_side(request, monkeypatch):
    without_extension(monkeypatch) if request.param == 'python' else require_extension()
    return request.param


class Block(torch.nn.Module):
    """AGLU, then AGLU with norms, a gate and a residual, as in a network."""

    def __init__(self, channels=1):
        super().__init__()
        self.lambda_ = torch.nn.Parameter(torch.rand(channels) + 0.1)
        self.kappa = torch.nn.Parameter(torch.rand(channels) + 1)
        self.weight, self.bias, self.of_gate = (torch.nn.Parameter(torch.randn(6)) for _ in range(3))
        self.register_buffer('mean', torch.randn(6))
        self.register_buffer('var', torch.rand(6) + 0.1)

    def forward(self, x):
        y = ops.aglu(x, self.lambda_, self.kappa)
        norm = ops.Norm(self.mean, self.var, self.weight, self.bias, 0.1)
        gate = x.mean((2, 3)) * self.of_gate
        return 2 * ops.aglu(y, self.lambda_, self.kappa, norm, gate, x, ops.Norm(weight=self.bias))


def value_and_gradients(function, block, x):
    out = function(x)
    return out, *torch.autograd.grad(out.square().sum(), (x, *block.parameters()))


def assert_same(got, want):
    for a, b in zip(got, want):
        torch.testing.assert_close(a, b)


@pytest.fixture(params=[1, 6], ids=['scalar', 'per channel'])
def block(request):
    return Block(request.param)


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last])
def x(request):
    return torch.randn(2, 6, 8, 9).to(memory_format=request.param).requires_grad_()


def arguments(x, before, curve=()):
    given, statistics = draw(BEFORE[before], x)
    given.update(lambda_=torch.rand(curve) + 0.1, kappa=torch.rand(curve), eps=0.1, residual_eps=0.2)
    for tensor in given.values():
        if isinstance(tensor, torch.Tensor):
            tensor.requires_grad_()
    return Arguments(x, **given, **statistics)


@pytest.mark.parametrize(
    'formula, before, curve', [('apa', 'nothing', (1,)), ('aglu', 'all', (6,)), ('neg_log_apa', 'norm gate', ())]
)
@needs_opcheck
def test_passes_the_checks_of_torch_library(formula, before, curve, x):
    args = arguments(x, before, curve)
    torch.library.opcheck(OPERATOR, (formula, *args))
    detached = [t.detach() if isinstance(t, torch.Tensor) else t for t in args]
    torch.library.opcheck(BACKWARD, (formula, torch.randn_like(x), *detached, ALL))


@pytest.mark.parametrize('backend', ['cpu', 'analytic'])
@pytest.mark.parametrize('first', [0, 1])
@needs_opcheck
def test_gives_as_many_gradients_as_are_needed(first, backend, x):
    args = [t.detach() if isinstance(t, torch.Tensor) else t for t in arguments(x, 'all')]
    some = [i % 2 == first for i in range(len(ALL))]
    with ops.use_backend(backend):
        got, every = (BACKWARD('aglu', x.detach(), *args, needed) for needed in (some, ALL))
        torch.library.opcheck(BACKWARD, ('aglu', x.detach(), *args, some), test_utils='test_faketensor')
    assert_same(got, every[first::2])
    assert len(got) == sum(some)


@pytest.mark.parametrize('backend', ['cpu', 'analytic'])
@needs_opcheck
def test_declared_shapes_and_dtypes_are_those_computed(backend):
    """Mixed dtypes, and parameters that are not contiguous."""
    x, residual = torch.randn(2, 6, 4, 5).bfloat16(), torch.randn(2, 6, 4, 5)
    weight, gate = torch.randn(6, 2)[:, 0], torch.randn(6, 2).double().T
    args = Arguments(
        x,
        torch.rand(6) + 0.1,
        torch.tensor(1.2),
        weight=weight.half(),
        gate=gate,
        residual=residual,
        residual_bias=weight,
    )
    with ops.use_backend(backend):
        torch.library.opcheck(BACKWARD, ('aglu', x, *args, ALL))
        torch.library.opcheck(OPERATOR, ('aglu', *args))


@compiles_in_one_graph
@pytest.mark.parametrize('backend', ['aot_eager', pytest.param('inductor', marks=pytest.mark.slow)])
def test_compiles_without_graph_breaks(backend, block, x):
    torch._dynamo.reset()
    compiled = torch.compile(block, backend=backend, fullgraph=True)
    assert_same(value_and_gradients(compiled, block, x), value_and_gradients(block, block, x))


@needs_dynamic_export
def test_exports_with_a_dynamic_batch(block, x):
    x = x.detach()
    program = torch.export.export(block, (x,), dynamic_shapes=dict(x={0: torch.export.Dim('batch', min=1, max=64)}))
    assert sum(node.target is OPERATOR for node in program.graph.nodes) == 2
    x = torch.cat([x, x])
    torch.testing.assert_close(program.module()(x), block(x))


@pytest.mark.parametrize('use_reentrant', [False, True])
def test_works_under_checkpoint(use_reentrant, block, x, host_side):
    want = value_and_gradients(block, block, x)
    out = checkpoint(block, x, use_reentrant=use_reentrant)
    out.square().sum().backward()
    assert_same((out, x.grad, *(p.grad for p in block.parameters())), want)


def test_can_be_traced(block, x):
    traced = torch.jit.trace(block, x.detach())
    torch.testing.assert_close(traced(x), block(x))


def test_a_second_derivative_is_refused(block, x, host_side):
    (grad,) = torch.autograd.grad(block(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()


def test_an_unavailable_backend_is_refused():
    with pytest.raises(ValueError, match=r"backend 'cuda' is not available, choose from \["), ops.use_backend('cuda'):
        pass


@pytest.mark.slow
def test_under_compiled_autograd():
    block, x = Block(), torch.randn(2, 6, 8, 9, requires_grad=True)
    want = value_and_gradients(block, block, x)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend='eager')):
        out = block(x)
        out.square().sum().backward()
    assert_same((out, x.grad, *(p.grad for p in block.parameters())), want)


def test_fake_tensors_have_the_declared_shapes(block, x, host_side):
    from torch._subclasses import FakeTensor, FakeTensorMode

    want = value_and_gradients(block, block, x)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        got = value_and_gradients(block, block, mode.from_tensor(x))
    for a, b in zip(got, want):
        assert type(a) is FakeTensor and (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)


def test_tensors_without_data_have_the_declared_shapes(block, x, host_side):
    out, *gradients = value_and_gradients(block.to('meta'), block, x.detach().to('meta').requires_grad_())
    assert out.is_meta and out.shape == x.shape and out.stride() == x.stride()
    assert [g.shape for g in gradients] == [x.shape, *(p.shape for p in block.parameters())]


def test_a_dispatch_mode_sees_the_operator(block, x, host_side):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    seen, want = [], value_and_gradients(block, block, x)
    with Seen():
        got = value_and_gradients(block, block, x)
    assert seen.count(OPERATOR) == seen.count(BACKWARD) == 2
    assert_same(got, want)


def test_a_subclass_of_tensor_stays_one(block, x, host_side):
    class Named(torch.Tensor):
        pass

    out = block(x.detach().as_subclass(Named))
    assert type(out) is Named
    assert_same([out.as_subclass(torch.Tensor)], [block(x)])


def test_a_lazily_negated_view_counts_with_its_sign(block, x, host_side):
    negated = torch.complex(torch.zeros_like(x), x.detach()).conj().imag
    assert negated.is_neg()
    assert_same([block(negated)], [block(-x)])


@pytest.mark.parametrize('transform', ['vmap', 'grad', 'jvp'])
def test_transforms_of_functions_are_refused(transform, x, host_side):
    one, x = torch.ones(()), x.detach()
    transformed = dict(
        vmap=lambda f: torch.vmap(f)(x),
        grad=lambda f: torch.func.grad(lambda y: f(y).sum())(x),
        jvp=lambda f: torch.func.jvp(f, (x,), (x,)),
    )[transform]
    with pytest.raises(RuntimeError, match='must override the setup_context'):
        transformed(lambda y: ops.aglu(y, one, one))


@pytest.mark.parametrize('dual', ['x', 'kappa'])
def test_forward_mode_derivatives_are_refused(dual, x, host_side):
    from torch.autograd import forward_ad

    given = dict(x=x.detach(), kappa=torch.ones(()))
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match='jvp'):
        given[dual] = forward_ad.make_dual(given[dual], torch.ones_like(given[dual]))
        ops.aglu(given['x'], torch.ones(()), given['kappa'])


def test_in_inference_mode(block, x, host_side):
    with torch.inference_mode():
        out = block(x)
        made_there = block(torch.ones_like(x))
    assert out.is_inference() and made_there.is_inference()
    assert_same([out, made_there], [block(x), block(torch.ones_like(x))])
    with torch.inference_mode():
        kept = torch.ones_like(x)
    with torch.no_grad():
        assert_same([block(kept)], [made_there])
    with pytest.raises(RuntimeError, match='Inference tensors cannot be saved for backward'):
        block(kept)


def test_an_input_changed_in_place_before_the_backward_is_reported(block, x, host_side):
    y = x * 1
    out = block(y)
    y.mul_(2)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        out.sum().backward()


def test_a_backward_through_a_released_graph_is_refused(x, host_side):
    out = ops.aglu(x, torch.ones(()), torch.ones(())).sum()
    out.backward(retain_graph=True)
    out.backward()
    with pytest.raises(RuntimeError, match='backward through the graph a second time'):
        out.backward()


def test_hooks_on_tensors_see_value_and_gradients(block, x, host_side):
    want, seen = value_and_gradients(block, block, x), {}
    x.register_hook(lambda grad: seen.update(x=grad))
    block.weight.register_post_accumulate_grad_hook(lambda p: seen.update(weight=p.grad))
    out = block(x)
    out.register_hook(lambda grad: seen.update(out=grad))
    out.square().sum().backward()
    assert_same([seen['out'], seen['x'], seen['weight']], [2 * want[0], want[1], block.weight.grad])


def test_hooks_on_saved_tensors_see_each_once(x, host_side):
    kept, params = [], [torch.rand(6) for _ in range(3)]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t.clone(), lambda t: t):
        ops.aglu(x, *params[:2], ops.Norm(weight=params[2])).sum().backward()
    assert sorted(t.data_ptr() for t in kept) == sorted(t.data_ptr() for t in (x, *params))


def test_results_can_be_copied_and_written(block, x, tmp_path, host_side):
    with torch.no_grad():
        out = block(x)
    torch.save(out, tmp_path / 'out.pt')
    assert torch.equal(torch.load(tmp_path / 'out.pt'), out) and torch.equal(copy.deepcopy(out), out)


def test_threads_may_call_at_once(block, x, host_side):
    want = value_and_gradients(block, block, x)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: value_and_gradients(block, block, x), range(24)):
            assert_same(got, want)


def test_anomaly_detection_names_the_operator(x, host_side):
    warned = pytest.warns(UserWarning, match='Error detected in .*Parametric')
    refused = pytest.raises(RuntimeError, match='Parametric.* returned nan')
    with torch.autograd.set_detect_anomaly(True), warned, refused:
        ops.aglu(x, torch.tensor(torch.nan), torch.ones(())).sum().backward()

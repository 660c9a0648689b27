"""The operator under everything that transforms PyTorch code."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from apa_mmdet import ops

OPERATOR = torch.ops.apa_mmdet.parametric.default


class Block(torch.nn.Module):
    """AGLU, then AGLU with a scale and a residual, as in a network."""

    def __init__(self, channels=1):
        super().__init__()
        self.lambda_ = torch.nn.Parameter(torch.rand(channels))
        self.kappa = torch.nn.Parameter(torch.rand(channels) + 1)
        self.scale = torch.nn.Parameter(torch.randn(6))

    def forward(self, x):
        y = ops.aglu(x, self.lambda_, self.kappa)
        return 2 * ops.aglu(y, self.lambda_, self.kappa, self.scale, self.scale, x)


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


@pytest.mark.parametrize('formula', ['apa', 'aglu', 'neg_log_apa'])
def test_passes_the_checks_of_torch_library(formula, x):
    scalar = [torch.tensor(0.4, requires_grad=True), torch.tensor(1.2, requires_grad=True)]
    channels = [torch.rand(6, requires_grad=True) for _ in range(2)]
    rest = [
        torch.rand(2, 6, requires_grad=True),
        torch.rand(2, 6),
        torch.randn(2, 6, 8, 9, requires_grad=True),
        torch.rand(1, 6),
    ]
    for args in ([*scalar, None, None, None, None], [*channels, *rest], [*scalar, *rest[:3], None]):
        torch.library.opcheck(OPERATOR, (formula, x, *args))
        detached = [None if t is None else t.detach() for t in (torch.randn_like(x), x, *args)]
        torch.library.opcheck(torch.ops.apa_mmdet.parametric_backward.default, (formula, *detached))


@pytest.mark.parametrize('backend', ['cpu', 'analytic'])
def test_declared_shapes_and_dtypes_are_those_computed(backend):
    """Mixed dtypes, and parameters that are not contiguous."""
    x, residual = torch.randn(2, 6, 4, 5).bfloat16(), torch.randn(2, 6, 4, 5)
    scale = torch.randn(6, 2).T
    args = (torch.rand(6) + 0.1, torch.tensor(1.2), scale, scale, residual, scale)
    with ops.use_backend(backend):
        torch.library.opcheck(torch.ops.apa_mmdet.parametric_backward.default, ('aglu', x, x, *args))
        torch.library.opcheck(OPERATOR, ('aglu', x, *args))


@pytest.mark.parametrize('backend', ['aot_eager', pytest.param('inductor', marks=pytest.mark.slow)])
def test_compiles_without_graph_breaks(backend, block, x):
    torch._dynamo.reset()
    compiled = torch.compile(block, backend=backend, fullgraph=True)
    assert_same(value_and_gradients(compiled, block, x), value_and_gradients(block, block, x))


def test_exports_with_a_dynamic_batch(block, x):
    x = x.detach()
    program = torch.export.export(block, (x,), dynamic_shapes=dict(x={0: torch.export.Dim('batch', min=1, max=64)}))
    assert sum(node.target is OPERATOR for node in program.graph.nodes) == 2
    x = torch.cat([x, x])
    torch.testing.assert_close(program.module()(x), block(x))


@pytest.mark.parametrize('use_reentrant', [False, True])
def test_works_under_checkpoint(use_reentrant, block, x):
    want = value_and_gradients(block, block, x)
    out = checkpoint(block, x, use_reentrant=use_reentrant)
    out.square().sum().backward()
    assert_same((out, x.grad, *(p.grad for p in block.parameters())), want)


def test_can_be_traced(block, x):
    traced = torch.jit.trace(block, x.detach())
    torch.testing.assert_close(traced(x), block(x))


def test_a_second_derivative_is_refused(block, x):
    (grad,) = torch.autograd.grad(block(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()


def test_an_unavailable_backend_is_refused():
    with pytest.raises(ValueError, match=r"backend 'cuda' is not available, choose from \["), ops.use_backend('cuda'):
        pass

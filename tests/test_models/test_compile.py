"""torch.compile with dynamic shapes: two of each part in a row, in one graph, give what they give without it."""

import pytest
import torch
from helpers.torch_features import compiles_in_one_graph
from torch import nn
from torch._inductor import config as inductor

from apa_mmdet.models.activations import build_activation
from apa_mmdet.models.layers import DeviceAgnosticCARAFEPack, LearnableNormedConv2d, WrappedCauchyLinear
from apa_mmdet.models.losses import DropLoss, MemoryEfficientCrossEntropyLoss

MAPS, ROWS = [(2, 6, 5, 3), (3, 6, 8, 7)], [(4, 6), (9, 6)]


class Losses(nn.Module):
    def __init__(self, build):
        super().__init__()
        self.losses = nn.ModuleList([build(), build()])

    def forward(self, x):
        labels = torch.arange(len(x)) % 6
        return self.losses[0](x, labels) + self.losses[1](2 * x, labels)


def activations(**cfg):
    return lambda: nn.Sequential(build_activation(cfg, 6), build_activation(cfg, 6)).eval(), MAPS


def drop_loss(link):
    frequencies = [0.1, 0.0001, 0.2, 0.001, 0.0001, 0.3]
    return lambda: Losses(lambda: DropLoss(6, link, frequencies)), ROWS


# name: (how to build two, the shapes of two calls)
pytestmark = compiles_in_one_graph

PARTS = {
    'APA': activations(type='APA', num_features=None),
    'AGLU': activations(type='AGLU'),
    'AconA': activations(type='AconA', num_features=None),
    'AconB': activations(type='AconB', num_features=None),
    'AconC': activations(type='AconC', num_features=None),
    'MetaAconC': activations(type='MetaAconC', num_features=None),
    'APALU': activations(type='APALU', num_features=None),
    'LearnableNormedConv2d': (
        lambda: nn.Sequential(LearnableNormedConv2d(6, 6, 1), LearnableNormedConv2d(6, 5, 1)),
        MAPS,
    ),
    'WrappedCauchyLinear': (
        lambda: nn.Sequential(WrappedCauchyLinear(6, 6, scale=2.0), WrappedCauchyLinear(6, 5)),
        ROWS,
    ),
    'CARAFE': (lambda: nn.Sequential(DeviceAgnosticCARAFEPack(6, 2), DeviceAgnosticCARAFEPack(6, 2)), MAPS),
    'DropLoss sigmoid': drop_loss('sigmoid'),
    'DropLoss gumbel': drop_loss('gumbel'),
    'DropLoss apa': drop_loss('apa'),
    'cross entropy': (lambda: Losses(MemoryEfficientCrossEntropyLoss), ROWS),
}
DTYPES = torch.float32, torch.bfloat16, torch.float16, torch.float64
# of the greatest value: a compiler fuses, and so rounds intermediate 16-bit results less often
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 8e-2}


def step(function, x, parameters):
    x = x.clone().requires_grad_()
    with torch.autocast('cpu', x.dtype, enabled=x.dtype in (torch.bfloat16, torch.float16)):
        torch.manual_seed(0)  # DropLoss draws
        out = function(x)
    # a slope of at most 1: WrappedCauchyLinear's own, of thousands, would overflow in float16
    return out.detach(), *torch.autograd.grad((out.float().square() + 1).sqrt().sum(), [x, *parameters])


def assert_compiles(part, dtype, backend):
    build, shapes = PARTS[part]
    model = build().double() if dtype == torch.float64 else build()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend, dynamic=True, fullgraph=True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    for shape in shapes:
        x = torch.randn(shape).to(dtype)
        wanted = step(model, x, parameters)
        for got, exact in zip(step(compiled, x, parameters), wanted):
            assert got.dtype == exact.dtype
            assert (got - exact).abs().max() <= TOLERANCES[dtype] * exact.abs().max().clamp(min=1e-3)


@pytest.mark.parametrize(
    'part, dtype', [('AGLU', torch.float16), ('AconC', torch.bfloat16), ('DropLoss gumbel', torch.float32)], ids=str
)
def test_two_in_a_row_compile(part, dtype):
    assert_compiles(part, dtype, 'aot_eager')


@pytest.mark.slow
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('part', PARTS)
def test_two_in_a_row_compile_in_every_dtype(part, dtype):
    assert_compiles(part, dtype, 'aot_eager')


@pytest.mark.slow
@pytest.mark.parametrize('dtype', DTYPES, ids=str)
@pytest.mark.parametrize('part', PARTS)
def test_inductor_compiles_two_in_a_row(part, dtype):
    with inductor.patch(fallback_random=True):  # DropLoss draws as without a compiler
        assert_compiles(part, dtype, 'inductor')

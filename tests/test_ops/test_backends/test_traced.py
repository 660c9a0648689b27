"""Exports the formulas to ONNX and runs them in onnxruntime."""

import numpy as np
import pytest
import torch
from helpers.preceding import BEFORE, draw, with_norms
from helpers.torch_features import export_onnx, needs_dynamo_exporter

from apa_mmdet import ops
from apa_mmdet.ops.backends import traced
from apa_mmdet.ops.memory_layout import Arguments

onnxruntime = pytest.importorskip('onnxruntime')


class Function(torch.nn.Module):
    def __init__(self, formula, channels, before):
        super().__init__()
        self.function = getattr(ops, formula)
        self.lambda_ = torch.nn.Parameter(torch.linspace(1e-3, 1.5, channels))
        self.kappa = torch.nn.Parameter(torch.linspace(-0.5, 1.3, channels))
        names = [name for name in BEFORE[before] if name not in ('gate', 'residual')]
        self.given, self.statistics = draw(names, torch.zeros(2, 6, 5, 40))
        self.before = before

    def forward(self, x):
        if self.before == 'nothing':
            return self.function(x, self.lambda_, self.kappa)
        given = dict(self.given, gate=x.mean((2, 3)).sigmoid()) if 'gate' in BEFORE[self.before] else self.given
        function = with_norms(self.function, self.statistics)
        return function(x, self.lambda_, self.kappa, residual=x.flip(3), **given)


@pytest.mark.parametrize(
    'dynamo', [False, pytest.param(True, marks=needs_dynamo_exporter)], ids=['torchscript', 'dynamo']
)
@pytest.mark.parametrize(
    'formula, before', [('apa', 'nothing'), ('aglu', 'norm residual'), ('neg_log_apa', 'nothing'), ('aglu', 'all')]
)
@pytest.mark.parametrize('channels', [1, 6])
def test_onnxruntime_agrees(formula, before, channels, dynamo, tmp_path):
    import onnx

    module = Function(formula, channels, before).eval()
    x = torch.randn(2, 6, 5, 40) * torch.logspace(-1, 2, 40)
    path = str(tmp_path / 'function.onnx')
    export_onnx(module, (x,), path, dynamo, input_names=['x'])
    assert {node.domain for node in onnx.load(path).graph.node} <= {'', 'ai.onnx'}, 'not an operator of ONNX'
    (got,) = onnxruntime.InferenceSession(path).run(None, {'x': x.numpy()})
    want = module(x).detach().numpy()
    assert (np.abs(got - want) / np.maximum(1, np.abs(want))).max() <= 1e-5


@pytest.mark.parametrize('formula', ['apa', 'aglu', 'neg_log_apa'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_agrees_with_the_operator(formula, dtype):
    x = (torch.randn(2, 3, 8, 8) * 10).to(dtype)
    given, statistics = draw(BEFORE['all'], x)
    args = Arguments(x, torch.rand(3) + 0.1, torch.randn(3), **given, **statistics, eps=0.1, residual_eps=0.2)
    got, want = traced.forward(formula, args), torch.ops.apa_mmdet.parametric(formula, *args)
    assert got.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)

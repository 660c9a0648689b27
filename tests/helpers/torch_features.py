"""Marks for tests of what not every supported version of torch has; each looks for the thing itself."""

import inspect

import pytest
import torch

needs_opcheck = pytest.mark.skipif(not hasattr(torch.library, 'opcheck'), reason='torch has no torch.library.opcheck')
needs_dynamic_export = pytest.mark.skipif(not hasattr(torch.export, 'Dim'), reason='torch.export knows no dimensions')
# dynamo of torch 2.1, which has no dimensions either, cannot read properties of named tuples
compiles_in_one_graph = pytest.mark.skipif(not hasattr(torch.export, 'Dim'), reason='torch compiles with graph breaks')
needs_dynamo_exporter = pytest.mark.skipif(
    'dynamo' not in inspect.signature(torch.onnx.export).parameters, reason='torch has no exporter by torch.export'
)


def _has_half_on_cpu(operation):
    try:
        operation(torch.ones(1, 1, 1, dtype=torch.float16), torch.ones(1, 1, 1, dtype=torch.float16))
    except RuntimeError:
        return False
    return True


needs_half_on_cpu = pytest.mark.skipif(not _has_half_on_cpu(torch.bmm), reason='torch has no float16 on a CPU')


def export_onnx(model, inputs, path, dynamo, **options):
    """``torch.onnx.export`` by the one or the other exporter; the only one of an early torch traces."""
    choice = {} if needs_dynamo_exporter.args[0] else dict(dynamo=dynamo)
    torch.onnx.export(model, inputs, path, **choice, **options)

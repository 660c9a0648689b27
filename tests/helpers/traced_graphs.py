"""What a traced graph needs to run."""

import io

import torch


def foreign_operators(traced):
    """Operators of the graph that a program with torch alone does not have."""
    kinds = {node.kind() for block in _blocks(traced.inlined_graph) for node in block.nodes()}
    return {kind for kind in kinds if not kind.startswith(('aten::', 'prim::')) or kind == 'prim::PythonOp'}


def _blocks(block):
    yield block
    for node in block.nodes():
        for inner in node.blocks():
            yield from _blocks(inner)


def saved_and_loaded(traced):
    """Saves the graph and loads it again; saving fails where it calls Python."""
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    return torch.jit.load(file)

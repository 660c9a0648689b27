"""Reads from the source code of modules which activations they call, for what a forward pass does not show."""

import ast
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from torch import nn

LIBRARIES = ('torch.', 'mmengine.')  # not inspected: the code of an activation is itself a call of the function
TORCH_NAMES = dict(swish='silu', hswish='hardswish')  # of activations that mmcv names differently, in lower case
FORWARD_METHODS = ('forward', 'forward_single')  # mmdet's heads call the latter once a level
LOOPS = (ast.For, ast.While, ast.ListComp, ast.GeneratorExp, ast.SetComp, ast.DictComp)


class FunctionalCalls(NamedTuple):
    """Methods that call an activation as a function, as ``RPNHead.forward_single``; classes whose source is unknown."""

    places: list[str]
    unknown: list[str]


def functional_calls(modules: list[nn.Module], activation: str) -> FunctionalCalls:
    """Finds ``F.relu``, ``torch.relu_``, ``x.relu`` or ``relu(…)``, for ``ReLU``, in the code of modules.

    It reads the methods of their classes only: neither functions outside of them nor torch's own layers, of which
    ``nn.TransformerEncoderLayer`` calls ``F.relu``. A child in a local variable, ``block.relu(x)``, looks the same.
    """
    places, unknown = {}, {}
    name = TORCH_NAMES.get(activation.lower(), activation.lower())
    for module in modules:
        for cls, method in _methods(module):
            if method is None:
                unknown[cls.__name__] = None
            elif any(_is_function(node, name) for node in _code(method, module)):
                places[f'{cls.__name__}.{method.name}'] = None
    return FunctionalCalls(list(places), list(unknown))


def count_uses(module: nn.Module, name: str) -> int | None:
    """Counts the mentions of ``self.<name>`` in the module's code, 2 for more than one; None if the code is unknown.

    A mention outside a forward method counts as 2, because that method may be called any number of times.
    """
    uses = 0
    for _, method in _methods(module):
        if method is None:
            return None
        for node in _code(method, module):
            loops = isinstance(node, LOOPS) and any(_is_use(part, name) for part in ast.walk(node))
            uses += 2 if loops or (method.name not in FORWARD_METHODS and _is_use(node, name)) else _is_use(node, name)
    return min(uses, 2)


def _methods(module: nn.Module) -> Iterator[tuple[type, ast.FunctionDef | None]]:
    """The methods that can be reached, class by class; None for a class whose source is unknown."""
    hidden = set()
    for cls in type(module).__mro__:
        if cls is object or cls.__module__.startswith(LIBRARIES):
            continue
        definition = _definition(cls)
        if definition is None:
            yield cls, None
            continue
        methods = [part for part in definition.body if isinstance(part, ast.FunctionDef) and part.name not in hidden]
        for method in methods:
            yield cls, method
        hidden.update(
            method.name
            for method in methods
            if not any(isinstance(node, ast.Name) and node.id == 'super' for node in ast.walk(method))
        )


def _is_function(node: ast.AST, name: str) -> bool:
    """Whether it is ``relu`` of anything but ``self`` and its attributes, or a call of a plain ``relu``."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id.replace('_', '') == name
    if not isinstance(node, ast.Attribute) or node.attr.replace('_', '') != name:
        return False
    root = node.value
    while isinstance(root, (ast.Attribute, ast.Subscript)):
        root = root.value
    return not (isinstance(root, ast.Name) and root.id == 'self')


def _is_use(node: ast.AST, name: str) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr == name
        and isinstance(node.ctx, ast.Load)
        and isinstance(node.value, ast.Name)
        and node.value.id == 'self'
    )


def _code(node: ast.AST, module: nn.Module) -> Iterator[ast.AST]:
    """All nodes below, except those under ``if self.<flag>:`` where the module's flag is off."""
    yield node
    test = node.test if isinstance(node, ast.If) else None
    off = isinstance(test, ast.Attribute) and _is_use(test, test.attr) and not getattr(module, test.attr, True)
    for child in node.orelse if off else ast.iter_child_nodes(node):
        yield from _code(child, module)


@cache
def _definition(cls: type) -> ast.ClassDef | None:
    return next((node for node in _definitions(cls.__module__) if node.name == cls.__name__), None)


@cache
def _definitions(module: str) -> tuple[ast.ClassDef, ...]:
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (KeyError, OSError, TypeError, SyntaxError):  # made at run time, compiled, or interactive
        return ()
    return tuple(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))

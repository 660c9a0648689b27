"""Reads from the source code of modules which activations they call, for what a forward pass does not show."""

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from textwrap import dedent

from torch import nn

LIBRARIES = ('torch.', 'mmengine.')  # not inspected: the code of an activation is itself a call of the function
TORCH_NAMES = dict(swish='silu', hswish='hardswish')  # of activations that mmcv names differently, in lower case
FORWARD_METHODS = ('forward', 'forward_single')  # mmdet's heads call the latter once a level
LOOPS = (ast.For, ast.While, ast.ListComp, ast.GeneratorExp, ast.SetComp, ast.DictComp)


def functional_calls(modules: list[nn.Module], activation: str) -> tuple[list[str], list[str]]:
    """Finds ``F.relu``, ``torch.relu_``, ``x.relu`` or ``relu(…)``, for ``ReLU``, in the code of modules.

    It reads the methods of their classes only: neither functions outside of them nor torch's own layers, of which
    ``nn.TransformerEncoderLayer`` calls ``F.relu``. A child in a local variable, ``block.relu(x)``, looks the same.

    Returns:
        The methods with such calls, as ``RPNHead.forward_single``, and the classes whose source is unknown.
    """
    places, unknown = {}, {}
    name = TORCH_NAMES.get(activation.lower(), activation.lower())
    for module in modules:
        for cls, method in _methods(module):
            if method is None:
                unknown[cls.__name__] = None
            elif any(_is_function(node, name) for node in _code(method, module)):
                places[f'{cls.__name__}.{method.name}'] = None
    return list(places), list(unknown)


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
            uses += 2 * loops + _is_use(node, name) * (1 if method.name in FORWARD_METHODS else 2)
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
        yield from ((cls, method) for method in methods)
        hidden.update(method.name for method in methods if 'super(' not in ast.unparse(method))


def _is_function(node: ast.AST, name: str) -> bool:
    """Whether it is ``relu`` of anything but ``self`` and its attributes, or a call of a plain ``relu``."""
    if isinstance(node, ast.Call):
        return getattr(node.func, 'id', '').replace('_', '') == name
    is_named = isinstance(node, ast.Attribute) and node.attr.replace('_', '') == name
    return is_named and not re.fullmatch(r'self\b[^()]*', ast.unparse(node.value))


def _is_use(node: ast.AST, name: str) -> bool:
    is_named = isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Load)
    return is_named and ast.unparse(node.value) == 'self'


def _code(node: ast.AST, module: nn.Module) -> Iterator[ast.AST]:
    """All nodes below, except those under ``if self.<flag>:`` where the module's flag is off."""
    yield node
    test = node.test if isinstance(node, ast.If) else None
    off = isinstance(test, ast.Attribute) and _is_use(test, test.attr) and not getattr(module, test.attr, True)
    for child in node.orelse if off else ast.iter_child_nodes(node):
        yield from _code(child, module)


@cache
def _definition(cls: type) -> ast.ClassDef | None:
    try:
        return ast.parse(dedent(inspect.getsource(cls))).body[0]
    except (OSError, TypeError, SyntaxError):  # made at run time, compiled, or interactive
        return None

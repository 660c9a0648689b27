"""What the code of a module calls, read from its source: for what cannot be seen by running it."""
import ast
import inspect
import sys
from functools import lru_cache
from typing import Iterator, List, NamedTuple, Optional, Tuple

from torch import nn

LIBRARIES = ('torch.', 'mmengine.')  # their code calls no activation of its own accord
LOOPS = (ast.For, ast.While, ast.ListComp, ast.GeneratorExp, ast.SetComp, ast.DictComp)


class FunctionalCalls(NamedTuple):
    """Where code calls an activation as a function, e.g. ``RPNHead.forward_single``; classes whose code is unknown."""

    places: List[str]
    unknown: List[str]


def functional_calls(modules: List[nn.Module], kind: str) -> FunctionalCalls:
    """Calls such as ``F.relu(x)``, ``torch.relu_(x)`` or ``x.relu()`` by any of ``modules``, for the kind ``ReLU``."""
    places, unknown = {}, {}
    for module in modules:
        for cls, method in _methods(module):
            if method is None:
                unknown[cls.__name__] = None
            elif any(_is_call(node, kind) for node in _code(method, module)):
                places[f'{cls.__name__}.{method.name}'] = None
    return FunctionalCalls(list(places), list(unknown))


def count_uses(module: nn.Module, name: str) -> Optional[int]:
    """How often the module's code mentions ``self.<name>``, where 2 means more than once; None if it is unknown."""
    uses = 0
    for _, method in _methods(module):
        if method is None:
            return None
        for node in _code(method, module):
            loops = isinstance(node, LOOPS) and any(_is_use(part, name) for part in ast.walk(node))
            uses += 2 if loops else _is_use(node, name)
    return min(uses, 2)


def _methods(module: nn.Module) -> Iterator[Tuple[type, Optional[ast.FunctionDef]]]:
    """Class by class the methods that can be reached; None for a class whose code is unknown."""
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
        hidden.update(method.name for method in methods if not any(
            isinstance(node, ast.Name) and node.id == 'super' for node in ast.walk(method)))


def _is_call(node: ast.AST, kind: str) -> bool:
    called = node.func if isinstance(node, ast.Call) else None
    return isinstance(called, ast.Attribute) and called.attr.replace('_', '') == kind.lower() \
        and not _is_use(called, called.attr)


def _is_use(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Load) \
        and isinstance(node.value, ast.Name) and node.value.id == 'self'


def _code(node: ast.AST, module: nn.Module) -> Iterator[ast.AST]:
    """All nodes below, without those that stand under ``if self.<flag>:`` where the module's flag is off."""
    yield node
    test = node.test if isinstance(node, ast.If) else None
    off = isinstance(test, ast.Attribute) and _is_use(test, test.attr) and not getattr(module, test.attr, True)
    for child in node.orelse if off else ast.iter_child_nodes(node):
        yield from _code(child, module)


@lru_cache(maxsize=None)
def _definition(cls: type) -> Optional[ast.ClassDef]:
    return next((node for node in _definitions(cls.__module__) if node.name == cls.__name__), None)


@lru_cache(maxsize=None)
def _definitions(module: str) -> Tuple[ast.ClassDef, ...]:
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (KeyError, OSError, TypeError, SyntaxError):  # made at run time, compiled, or interactive
        return ()
    return tuple(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))

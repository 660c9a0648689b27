"""The operator ``apa_mmdet::parametric`` and its derivative, as PyTorch's dispatcher knows them.

Registered, they are one node each to torch.compile and torch.export; the shape functions stand for them where there is
no data. This is the one place that picks a backend.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .backends import analytic, cpu
from .memory_layout import Arguments, empty_result
from .recompute import Recipe, recipe_of

try:
    from .backends import triton
except ImportError:  # Triton is there where torch has CUDA; a CPU can do without
    triton = None

_backends = dict(triton=triton, cpu=cpu, analytic=analytic)  # the first that serves computes
_chosen: list[str] = []


def backends() -> dict[str, ModuleType]:
    """The modules that can compute here, by name."""
    there = dict(triton=triton is not None, cpu=cpu.load() is not None, analytic=True)
    return {name: module for name, module in _backends.items() if there[name]}


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Within it ``'analytic'``, ``'cpu'`` or ``'triton'`` computes, whatever the tensors (for tests and benchmarks).

    Raises:
        ValueError: if there is no such backend here.
    """
    if name not in backends():
        raise ValueError(f'no backend {name!r} here, there are {list(backends())}')
    _chosen.append(name)
    try:
        yield
    finally:
        _chosen.pop()


def _backend(x: Tensor) -> ModuleType:
    if _chosen:
        return _backends[_chosen[-1]]
    return next(module for module in _backends.values() if module is not None and module.serves(x))


_library = torch.library.Library('apa_mmdet', 'DEF')
_ARGUMENTS = (
    'Tensor x, Tensor lambda_, Tensor kappa, Tensor? scale, Tensor? shift, Tensor? residual, Tensor? residual_scale'
)
_library.define(f'parametric(str formula, {_ARGUMENTS}) -> Tensor')
_library.define(f'parametric_backward(str formula, Tensor grad, {_ARGUMENTS}) -> Tensor[]')


def _forward(formula: str, *args: Tensor | None) -> Tensor:
    args = Arguments(*args)
    return _backend(args.x).forward(formula, args)


def _backward(formula: str, grad: Tensor, *args: Tensor | None) -> list[Tensor]:
    args = Arguments(*args)
    return [t for t in _backend(args.x).backward(formula, grad, args) if t is not None]


def _shape_of_forward(formula: str, *args: Tensor | None) -> Tensor:
    args = Arguments(*args)
    return empty_result(args.x, args.per_channel)


def _shape_of_backward(formula: str, grad: Tensor, *args: Tensor | None) -> list[Tensor]:
    args = Arguments(*args)
    like = empty_result(args.x, args.per_channel)
    residual = None if args.residual is None else torch.empty_like(like, dtype=args.residual.dtype)
    gradients = Arguments(like, *(None if t is None else t.new_empty(t.shape) for t in args[1:]))
    return [t for t in gradients._replace(residual=residual) if t is not None]


# before torch 2.2 there is no telling: the recipe is let go with the graph
_graph_is_retained = getattr(torch._C._autograd, '_get_current_graph_task_keep_graph', lambda: True)


class Parametric(Function):
    """Keeps its arguments, and nothing else, for backward; the residual as a recipe where it comes with one."""

    @staticmethod
    def forward(ctx, formula: str, *args: Tensor | None) -> Tensor:
        ctx.formula = formula
        ctx.recipe: Recipe | None = recipe_of(args[5])
        ctx.save_for_backward(*args[:5], None if ctx.recipe else args[5], args[6])
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.apa_mmdet.parametric(formula, *args)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        args = list(ctx.saved_tensors)
        if ctx.recipe:
            args[5] = ctx.recipe()
            if not _graph_is_retained():
                ctx.recipe = None  # autograd lets go of what it keeps itself
        gradients = iter(torch.ops.apa_mmdet.parametric_backward(ctx.formula, grad, *args))
        return None, *(None if arg is None else next(gradients) for arg in args)


def _differentiable(formula: str, *args: Tensor | None) -> Tensor:
    return Parametric.apply(formula, *args)


_library.impl('parametric', _forward, 'CompositeExplicitAutograd')
_library.impl('parametric', _differentiable, 'Autograd')
_library.impl('parametric_backward', _backward, 'CompositeExplicitAutograd')
_library.impl('parametric', _shape_of_forward, 'Meta')
_library.impl('parametric_backward', _shape_of_backward, 'Meta')

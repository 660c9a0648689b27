"""Registers the operator ``apa_mmdet::parametric`` and its derivative with PyTorch's dispatcher, and picks a backend.

Registered, they are one node each to torch.compile and torch.export; the shape functions serve tensors without data.
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
from .recompute import recomputation_of

try:
    from .backends import triton
except ImportError:  # torch's CUDA builds bring Triton; a CPU does not need it
    triton = None  # type: ignore[assignment]

_backends = dict(triton=triton, cpu=cpu, analytic=analytic)  # the first that serves computes
_chosen: list[str] = []


def backends() -> dict[str, ModuleType]:
    """Returns the modules that can compute on this machine, by name."""
    return {name: module for name, module in _backends.items() if module and (module is not cpu or cpu.load())}


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Computes with ``'analytic'``, ``'cpu'`` or ``'triton'`` inside the block (for tests and benchmarks).

    Raises:
        ValueError: if the backend is not available.
    """
    if name not in backends():
        raise ValueError(f'backend {name!r} is not available, choose from {list(backends())}')
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


@torch.library.impl(_library, 'parametric', 'CompositeExplicitAutograd')
def _forward(formula: str, *args: Tensor | None) -> Tensor:
    args = Arguments._make(args)
    return _backend(args.x).forward(formula, args)


@torch.library.impl(_library, 'parametric_backward', 'CompositeExplicitAutograd')
def _backward(formula: str, grad: Tensor, *args: Tensor | None) -> list[Tensor]:
    args = Arguments._make(args)
    return [t for t in _backend(args.x).backward(formula, grad, args) if t is not None]


@torch.library.impl(_library, 'parametric', 'Meta')
def _shape_of_forward(formula: str, *args: Tensor | None) -> Tensor:
    args = Arguments._make(args)
    return empty_result(args.x, args.per_channel)


@torch.library.impl(_library, 'parametric_backward', 'Meta')
def _shape_of_backward(formula: str, grad: Tensor, *args: Tensor | None) -> list[Tensor]:
    args = Arguments._make(args)
    gradients = Arguments._make(None if t is None else t.new_empty(t.shape) for t in args)
    like = empty_result(args.x, args.per_channel)
    residual = None if args.residual is None else torch.empty_like(like, dtype=args.residual.dtype)
    return [t for t in gradients._replace(x=like, residual=residual) if t is not None]


# torch < 2.2 does not tell whether the graph is retained: the recomputation is then released with the graph
_graph_is_retained = getattr(torch._C._autograd, '_get_current_graph_task_keep_graph', lambda: True)


class Parametric(Function):
    """Keeps only its arguments for backward, and of the residual the recomputation where it comes with one."""

    @staticmethod
    def forward(ctx, formula: str, *args: Tensor | None) -> Tensor:
        args = Arguments._make(args)
        ctx.formula = formula
        ctx.recomputation = recomputation_of(args.residual)
        ctx.save_for_backward(*(args._replace(residual=None) if ctx.recomputation else args))
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.apa_mmdet.parametric(formula, *args)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        args = Arguments._make(ctx.saved_tensors)
        if ctx.recomputation:
            args = args._replace(residual=ctx.recomputation())
            if not _graph_is_retained():
                ctx.recomputation = None  # as autograd releases the saved tensors
        gradients = iter(torch.ops.apa_mmdet.parametric_backward(ctx.formula, grad, *args))
        return None, *(None if arg is None else next(gradients) for arg in args)


_library.impl('parametric', lambda *args: Parametric.apply(*args), 'Autograd')

"""Registers the operator ``apa_mmdet::parametric`` and its derivative with PyTorch's dispatcher, and picks a backend.

Registered, they are one node each to torch.compile and torch.export; the shape functions serve tensors without data.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .backends import analytic, cpu, cpu_extension, traced
from .memory_layout import DIFFERENTIABLE, FORMULAS, Arguments, check, empty_result, is_compiling
from .recompute import attach_recomputation, recomputation_of

_chosen: list[ModuleType] = []
PLAIN = Tensor, torch.nn.Parameter
_RESIDUAL = Arguments._fields.index('residual')


def backends() -> dict[str, ModuleType]:
    """Returns the modules that can compute on this machine, by name: of those that serve a tensor, the first does."""
    found = {
        'triton-cpp': _triton_extension(),
        'triton': _triton(),
        'cpu': cpu if cpu.load() else None,
        'analytic': analytic,
    }
    return {name: module for name, module in found.items() if module is not None}


@cache
def _triton() -> ModuleType | None:
    """The kernels for GPUs, imported for the first tensor on one (0.1 s); torch's CUDA builds bring Triton."""
    try:
        from .backends import triton
    except ImportError:
        return None
    return triton


@cache
def _triton_extension() -> ModuleType | None:
    """The same kernels, launched from C++, where that has been built."""
    if _triton() is None:
        return None
    from .backends import triton_extension

    return triton_extension if triton_extension.load() else None


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Computes with ``'analytic'``, ``'cpu'``, ``'triton'`` or ``'triton-cpp'`` inside the block (for tests and
    benchmarks). The last is chosen by itself where :mod:`~apa_mmdet.ops.self_test` has passed.

    Raises:
        ValueError: if the backend is not available.
    """
    available = backends()
    if name not in available:
        raise ValueError(f'backend {name!r} is not available, choose from {list(available)}')
    _chosen.append(available[name])
    try:
        yield
    finally:
        _chosen.pop()


def extension() -> ModuleType | None:
    """Returns the host side of the CPU's operators, where it has been built and no other backend is chosen."""
    return cpu_extension.load() if not _chosen or _chosen[-1] is cpu else None


def _host_side(x: Any) -> Any | None:
    """Returns the host side in C++ of the backend for x, which serves what it can of calls; None if it has none."""
    if _chosen or (getattr(x, 'is_cuda', False) and _is_plain(x)):
        from_cpp = _triton_extension()
        if from_cpp is not None and (_chosen[-1] is from_cpp if _chosen else from_cpp.is_tested(x.device)):
            return from_cpp.load()
    return extension()


def _backend(x: Tensor) -> ModuleType:
    if _chosen:
        return _chosen[-1]
    triton = _triton() if x.is_cuda else None
    if triton is not None and triton.serves(x):
        return triton
    return cpu if cpu.serves(x) else analytic


def call(formula: str, arguments: tuple, recompute: bool) -> Tensor:
    """Computes a formula of ``Arguments`` by the shortest way that this moment allows.

    Raises:
        ValueError, TypeError: as :func:`~apa_mmdet.ops.memory_layout.check`.
    """
    if not is_compiling():
        if torch._C._get_tracing_state() is not None:  # plain operators, which all programs have
            return traced.forward(formula, check(Arguments(*arguments)))
        module = None if recompute or recomputation_of(arguments[_RESIDUAL]) else _host_side(arguments[0])
        result = None if module is None else module.call(FORMULAS.index(formula), *arguments)
        if result is not None:
            return result
    args = check(Arguments(*arguments))  # torch 2.1 does not compile `_make`
    if is_compiling() or not _is_plain(args.x):
        if torch.onnx.is_in_onnx_export():
            return traced.forward(formula, args)
        return torch.ops.apa_mmdet.parametric(formula, *args)
    if not torch.is_grad_enabled():
        return _backend(args.x).forward(formula, args)
    apply = Parametric.apply if torch._C._are_functorch_transforms_active() else _apply
    result = apply(formula, *args)
    return attach_recomputation(result, partial(_again, formula), *args) if recompute else result


def _again(formula: str, *args: Any) -> Tensor:
    return call(formula, args, False)


def _is_plain(x: Tensor) -> bool:
    """Whether x holds data, and no mode or subclass wants to see what is computed with it."""
    return type(x) in PLAIN and x.device.type in ('cpu', 'cuda') and not torch._C._len_torch_dispatch_stack()


_library = torch.library.Library('apa_mmdet', 'DEF')
_ARGUMENTS = ', '.join(
    f'{"float" if name.endswith("eps") else "Tensor" if name in ("x", "lambda_", "kappa") else "Tensor?"} {name}'
    for name in Arguments._fields
)
_library.define(f'parametric(str formula, {_ARGUMENTS}) -> Tensor')
_library.define(f'parametric_backward(str formula, Tensor grad, {_ARGUMENTS}, bool[] needed) -> Tensor[]')


@torch.library.impl(_library, 'parametric', 'CompositeExplicitAutograd')
def _forward(formula: str, *arguments: Any) -> Tensor:
    args = Arguments._make(arguments)
    return _backend(args.x).forward(formula, args)


@torch.library.impl(_library, 'parametric_backward', 'CompositeExplicitAutograd')
def _backward(formula: str, grad: Tensor, *arguments: Any) -> list[Tensor]:
    *given, needed = arguments
    args = Arguments._make(given)
    gradients = _backend(args.x).backward(formula, grad, args, needed)
    return [t for t, wanted in zip(gradients, needed) if wanted and t is not None]


@torch.library.impl(_library, 'parametric', 'Meta')
def _shape_of_forward(formula: str, *arguments: Any) -> Tensor:
    args = Arguments._make(arguments)
    return empty_result(args.x, args.per_channel)


@torch.library.impl(_library, 'parametric_backward', 'Meta')
def _shape_of_backward(formula: str, grad: Tensor, *arguments: Any) -> list[Tensor]:
    *given, needed = arguments
    args = Arguments._make(given)
    like = empty_result(args.x, args.per_channel)
    results = []
    for name, wanted in zip(DIFFERENTIABLE, needed):
        tensor = getattr(args, name)
        if tensor is not None and wanted:
            same = name in ('x', 'residual')
            results.append(torch.empty_like(like, dtype=tensor.dtype) if same else tensor.new_empty(tensor.shape))
    return results


# torch < 2.2 does not tell whether the graph is retained: the recomputation is then released with the graph
_graph_is_retained = getattr(torch._C._autograd, '_get_current_graph_task_keep_graph', lambda: True)
_PLACES = [Arguments._fields.index(name) for name in DIFFERENTIABLE]


class Parametric(Function):
    """Keeps only its arguments for backward, and of the residual the recomputation where it comes with one."""

    @staticmethod
    def forward(ctx, formula: str, *arguments: Any) -> Tensor:
        args = Arguments._make(arguments)
        ctx.formula, ctx.eps = formula, args[-2:]
        ctx.recomputation = recomputation_of(args.residual)
        ctx.save_for_backward(*(args._replace(residual=None) if ctx.recomputation else args).tensors)
        if _is_plain(args.x):
            return _backend(args.x).forward(formula, args)
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.apa_mmdet.parametric(formula, *args)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        args = Arguments(*ctx.saved_tensors, *ctx.eps)
        if ctx.recomputation:
            args = args._replace(residual=ctx.recomputation())
            if not _graph_is_retained():
                ctx.recomputation = None  # as autograd releases the saved tensors
        needed = [ctx.needs_input_grad[1 + place] for place in _PLACES]
        if _is_plain(grad):
            gradients = _backend(args.x).backward(ctx.formula, grad, args, needed)
        else:
            flat = iter(torch.ops.apa_mmdet.parametric_backward(ctx.formula, grad, *args, needed))
            gradients = [next(flat) if wanted else None for wanted in needed]
        results: list[Tensor | None] = [None] * (1 + len(args))
        for place, gradient in zip(_PLACES, gradients):
            results[1 + place] = gradient
        return tuple(results)


# Function.apply without its loop over the arguments in Python, which transforms of functorch need: 4 of 25 microseconds
_apply = super(Function, Parametric).apply

_library.impl('parametric', lambda *args: Parametric.apply(*args), 'Autograd')

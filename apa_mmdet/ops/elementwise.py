"""Applies elementwise functions with per-channel parameters, and their hand-derived gradients, in plain PyTorch.

A function takes tensors that broadcast. Large tensors are processed in blocks, so that intermediate results stay small,
on a CPU in the cache. The caller decides what autograd keeps.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .memory_layout import against, check_input, compute_dtype, empty_result, in_order_of, is_compiling, result_of

BLOCK = 1 << 16  # elements of a block on a CPU: its temporaries stay in the L2 cache
DEVICE_BLOCK = 1 << 22  # on other devices, which need large steps: a temporary takes 16 MiB at most


def parameters_of(x: Tensor, **parameters: Tensor) -> list[Tensor]:
    """Returns the parameters in the dtype that ``x`` is computed in, of shape (), (C,) or (N, C).

    Raises:
        ValueError: if a parameter has another shape or is on another device.
        TypeError: if the dtype of ``x`` is not a floating point one.
    """
    check_input(x, **parameters)
    shaped = []
    for name, parameter in parameters.items():
        if parameter.numel() == 1 and parameter.dim() < 2:
            parameter = parameter.reshape(())
        elif parameter.shape != (x.shape[1:2] if parameter.dim() == 1 else x.shape[:2]):
            channels = x.shape[1] if x.dim() > 1 else 1
            raise ValueError(
                f'{name} has shape {tuple(parameter.shape)}, but an input of shape {tuple(x.shape)} has '
                f'{channels} channels: give one value, one per channel (dimension 1), (C,), or one per '
                'image and channel, (N, C)'
            )
        shaped.append(parameter.to(compute_dtype(x.dtype)))
    return shaped


def value(function: Callable[..., Tensor], x: Tensor, *parameters: Tensor) -> Tensor:
    """Computes ``function(x, *parameters)`` in float32 (float64 for float64); returns it in the dtype of ``x``.

    Args:
        function: elementwise; its arguments broadcast.
        x: any shape and memory format, which is kept.
        parameters: as :func:`parameters_of` returns them.
    """
    dtype = compute_dtype(x.dtype)
    if _in_one_piece(x):
        return result_of(function(x.to(dtype), *(against(x, p) for p in parameters)).to(x.dtype))
    out = empty_result(x, any(p.dim() for p in parameters))
    for _, x_, out_, *block in blocks(*_as_rows((in_order_of(out, x), out), parameters)):
        out_.copy_(function(x_.to(dtype), *block))
    return out


def gradients(
    function: Callable[..., tuple[Tensor, ...]], grad: Tensor, x: Tensor, *parameters: Tensor
) -> list[Tensor]:
    """Computes ``function(grad, x, *parameters)``: its first result elementwise, the others summed over positions.

    A sum has the shape (N, C), or (1, C) where no parameter differs between images, or no C where none differs between
    channels: it broadcasts against the parameters, and its ``sum_to_size`` is the gradient to any of them.
    """
    dtype = compute_dtype(x.dtype)
    if _in_one_piece(x):
        to_x, *rest = function(grad.to(dtype), _bounded(x), *(against(x, p) for p in parameters))
        return [to_x.to(x.dtype), *(t.sum(tuple(range(2, t.dim()))) if t.dim() > 2 else t for t in rest)]
    to_x = empty_result(x, any(p.dim() for p in parameters))
    sums: dict[int, list[list[Tensor]]] = {}
    views = _as_rows((in_order_of(to_x, grad), in_order_of(to_x, x), to_x), parameters)
    for part, grad_, x_, to_x_, *block in blocks(*views):
        to_block, *rest = function(grad_.to(dtype), _bounded(x_), *block)
        to_x_.copy_(to_block)
        sums.setdefault(part, []).append([t.sum(1) for t in rest])
    parts = [[torch.stack(pieces).sum(0) for pieces in zip(*part)] for part in sums.values()]
    width = x.shape[1] if any(p.dim() for p in parameters) else 1
    return [to_x, *(torch.cat(column).view(-1, width) for column in zip(*parts))]


def _bounded(x: Tensor) -> Tensor:
    """Returns ``x`` in its compute dtype, at most 1e15: gradients to parameters grow as x², float32 holds their sums.

    The limit is a literal: with ``dynamic=True`` Dynamo makes a graph input of a global float, and fails where two
    functions of one graph read it.
    """
    dtype = compute_dtype(x.dtype)
    return x if x.dtype == dtype else x.to(dtype).clamp_(-1e15, 1e15)


def _in_one_piece(x: Tensor) -> bool:
    """Whether to compute without blocks: a compiler finds its own, and a trace must not depend on the size."""
    return is_compiling() or torch.jit.is_tracing() or x.numel() <= _block_of(x)


def _block_of(x: Tensor) -> int:
    return BLOCK if x.device.type == 'cpu' else DEVICE_BLOCK


def blocks(views: Sequence[Tensor], per_row: Sequence[Tensor] = (), split_rows: bool = True) -> Iterator[tuple]:
    """Cuts tensors of one shape and memory order into views of about a block of elements, in step.

    Args:
        views: of shape (rows, positions, channels), or (rows, …) without ``split_rows``.
        per_row: of shape (rows, 1, channels) or (1, 1, channels).
        split_rows: whether a row that is longer than a block is cut along its positions.

    Yields:
        The index of the rows that a block belongs to, whose sums are added up; the block of each view, then of each of
        ``per_row``.
    """
    block = _block_of(views[0])
    rows = max(1, block // views[0][0].numel())
    for part, cut in enumerate(zip(*(t.split(rows) for t in (*views, *per_row)))):
        row, constant = cut[: len(views)], cut[len(views) :]
        positions = max(1, block // row[0].shape[2]) if split_rows else row[0].shape[1]
        for pieces in zip(*(view.split(positions, 1) for view in row)):
            yield part, *pieces, *constant


def _as_rows(tensors: Sequence[Tensor], parameters: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Returns views (rows, positions, channels) in memory order, and parameters that are constant over positions."""
    shape, numel = tensors[0].shape, tensors[0].numel()
    if not any(p.dim() for p in parameters):
        return ([t.as_strided((1, numel, 1), (numel, 1, 1)) for t in tensors], [p.expand(1, 1, 1) for p in parameters])
    if len(shape) > 2 and tensors[0].is_contiguous():
        return (
            [t.flatten(2).flatten(0, 1)[..., None] for t in tensors],
            [p.expand(shape[:2]).reshape(-1, 1, 1) for p in parameters],
        )
    views = [t.movedim(1, -1).flatten(1, -2) if len(shape) > 2 else t[:, None] for t in tensors]  # channels innermost
    if any(p.dim() > 1 for p in parameters):
        return views, [p.expand(shape[:2])[:, None] for p in parameters]
    return [view.flatten(0, 1)[None] for view in views], [p.expand(1, 1, shape[1]) for p in parameters]

"""Elementwise functions with parameters per channel: values, and gradients derived by hand, in plain PyTorch.

A function is given as one on tensors that broadcast. It goes over large tensors block by block, so that its
intermediate results stay small, on a CPU in the cache; what autograd keeps is up to the caller.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from .memory_layout import against, compute_dtype, empty_result, in_order_of, is_compiling

LARGEST = 1e15  # |x| in gradients to parameters, which may grow as x²: their sums stay in float32
BLOCK = 1 << 16  # elements handled at a time on a CPU: the temporaries of one block stay in the L2 cache
DEVICE_BLOCK = 1 << 22  # on others, which want large steps: the temporaries take 16 MiB each at most


def parameters_of(x: Tensor, **parameters: Tensor) -> list[Tensor]:
    """The parameters in the dtype that ``x`` is computed in, of shape (), (C,) or (N, C).

    Raises:
        ValueError: if a parameter has none of these shapes, or lies on another device.
        TypeError: if ``x`` is not of a floating point dtype.
    """
    if not x.is_floating_point():
        raise TypeError(f'the input must be of a floating point dtype, got {x.dtype}')
    shaped = []
    for name, parameter in parameters.items():
        if parameter.device != x.device:
            raise ValueError(f'{name} is on {parameter.device}, but the input on {x.device}')
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
    """``function(x, *parameters)`` in float32 (float64 for float64), returned in the dtype of ``x``.

    Args:
        function: elementwise; its arguments broadcast.
        x: any shape and memory format, which is kept.
        parameters: as :func:`parameters_of` returns them.
    """
    dtype = compute_dtype(x.dtype)
    if _in_one_piece(x):
        return function(x.to(dtype), *(against(x, p) for p in parameters)).to(x.dtype)
    out = empty_result(x, any(p.dim() for p in parameters))
    for _, x_, out_, *block in _blocks((in_order_of(out, x), out), parameters):
        out_.copy_(function(x_.to(dtype), *block))
    return out


def gradients(
    function: Callable[..., tuple[Tensor, ...]], grad: Tensor, x: Tensor, *parameters: Tensor
) -> list[Tensor]:
    """``function(grad, x, *parameters)``: its first result as it is, the others summed over positions.

    A sum is of shape (N, C), or (1, C) where no parameter differs between images, or without C where none does between
    channels: it broadcasts against the parameters, and its ``sum_to_size`` is the gradient of any.
    """
    dtype = compute_dtype(x.dtype)
    if _in_one_piece(x):
        to_x, *rest = function(grad.to(dtype), _bounded(x), *(against(x, p) for p in parameters))
        return [to_x.to(x.dtype), *(t.sum(tuple(range(2, t.dim()))) if t.dim() > 2 else t for t in rest)]
    to_x, sums = empty_result(x, any(p.dim() for p in parameters)), {}
    for part, grad_, x_, to_x_, *block in _blocks((in_order_of(to_x, grad), in_order_of(to_x, x), to_x), parameters):
        to_block, *rest = function(grad_.to(dtype), _bounded(x_), *block)
        to_x_.copy_(to_block)
        sums.setdefault(part, []).append([t.sum(1) for t in rest])
    parts = [[torch.stack(pieces).sum(0) for pieces in zip(*part)] for part in sums.values()]
    width = x.shape[1] if any(p.dim() for p in parameters) else 1
    return [to_x, *(torch.cat(column).view(-1, width) for column in zip(*parts))]


def _bounded(x: Tensor) -> Tensor:
    """``x`` in the dtype it is computed in; no pass over memory where that is its own."""
    dtype = compute_dtype(x.dtype)
    return x if x.dtype == dtype else x.to(dtype).clamp_(-LARGEST, LARGEST)


def _in_one_piece(x: Tensor) -> bool:
    """A compiler finds blocks of its own, and a trace is to know of none."""
    return is_compiling() or torch.jit.is_tracing() or x.numel() <= _block_of(x)


def _block_of(x: Tensor) -> int:
    return BLOCK if x.device.type == 'cpu' else DEVICE_BLOCK


def _blocks(tensors: Sequence[Tensor], parameters: Sequence[Tensor]) -> Iterator[tuple]:
    """Cut dense tensors of one shape and memory order into views of about a block of elements.

    Yields:
        The number of the part that a block belongs to, whose sums are to be added up; its view of each tensor, (rows,
        positions, channels); its view of each parameter, (rows, 1, channels).
    """
    views, spread = _as_rows(tensors, parameters)
    block = _block_of(views[0])
    rows = max(1, block // views[0][0].numel())  # whole ones, or pieces of one
    positions = max(1, block // views[0].shape[2])
    for part, cut in enumerate(zip(*(t.split(rows) for t in (*views, *spread)))):
        for pieces in zip(*(view.split(positions, 1) for view in cut[: len(views)])):
            yield part, *pieces, *cut[len(views) :]


def _as_rows(tensors: Sequence[Tensor], parameters: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Views (rows, positions, channels), in the order of memory, and parameters that are constant over positions."""
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

"""Elementwise functions with parameters per channel: values, and gradients derived by hand, in plain PyTorch.

A function is given as one on tensors that broadcast. On a CPU it goes over large tensors block by block, so that its
intermediate results stay in the cache; what autograd keeps is up to the caller.
"""
from itertools import repeat
from typing import Callable, Iterator, List, Sequence, Tuple

import torch
from torch import Tensor

from .layout import against, compute_dtype, empty_result, in_order_of, is_compiling

LARGEST = 1e15  # |x| of bfloat16 in gradients: sums of x² stay in float32
BLOCK = 1 << 16  # elements handled at a time on a CPU: the temporaries of one block stay in the L2 cache


def parameters_of(x: Tensor, **parameters: Tensor) -> List[Tensor]:
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
        if parameter.numel() == 1:
            parameter = parameter.reshape(())
        elif parameter.shape != (x.shape[1:2] if parameter.dim() == 1 else x.shape[:2]):
            channels = x.shape[1] if x.dim() > 1 else 1
            raise ValueError(f'{name} has shape {tuple(parameter.shape)}, but an input of shape {tuple(x.shape)} has '
                             f'{channels} channels: give one value, one per channel (dimension 1), (C,), or one per '
                             'image and channel, (N, C)')
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


def gradients(function: Callable[..., Tuple[Tensor, ...]], grad: Tensor, x: Tensor,
              *parameters: Tensor) -> List[Tensor]:
    """``function(grad, x, *parameters)``: its first result as it is, the others summed over positions.

    A sum is of shape (N, C), or any (K, C) where no parameter differs between images, or without C where none does
    between channels: it broadcasts against the parameters, and its ``sum_to_size`` is the gradient of any.
    """
    dtype = compute_dtype(x.dtype)
    if _in_one_piece(x):
        to_x, *rest = function(grad.to(dtype), _bounded(x), *(against(x, p) for p in parameters))
        return [to_x.to(x.dtype), *(t.sum(tuple(range(2, t.dim()))) if t.dim() > 2 else t for t in rest)]
    to_x, sums = empty_result(x, any(p.dim() for p in parameters)), []
    for dim, grad_, x_, to_x_, *block in _blocks((in_order_of(to_x, grad), in_order_of(to_x, x), to_x), parameters):
        to_block, *rest = function(grad_.to(dtype), _bounded(x_), *block)
        to_x_.copy_(to_block)
        sums.append([t.sum(dim, keepdim=dim == 0) for t in rest])
    width = x.shape[1] if any(p.dim() for p in parameters) else 1
    return [to_x, *(torch.cat(parts).view(-1, width) for parts in zip(*sums))]


def _bounded(x: Tensor) -> Tensor:
    """``x`` in the dtype it is computed in; no pass over memory where that is its own."""
    dtype = compute_dtype(x.dtype)
    return x if x.dtype == dtype else x.to(dtype).clamp_(-LARGEST, LARGEST)


def _in_one_piece(x: Tensor) -> bool:
    """Other devices are best served by few large steps, a compiler finds its own, and a trace is to know of none."""
    return is_compiling() or torch.jit.is_tracing() or x.device.type != 'cpu' or x.numel() <= BLOCK


def _blocks(tensors: Sequence[Tensor], parameters: Sequence[Tensor]) -> Iterator[tuple]:
    """Cut dense tensors of one shape and memory order into views of about BLOCK elements.

    Yields:
        Over which of its dimensions the sums of a block run, then its view of each tensor and parameter.
    """
    shape, numel = tensors[0].shape, tensors[0].numel()
    if not any(p.dim() for p in parameters):
        dim, views = 0, [t.as_strided((numel, 1), (1, 1)) for t in tensors]
        spread = [p.expand(numel, 1) for p in parameters]
    elif len(shape) > 2 and tensors[0].is_contiguous():
        dim, views = 1, [t.flatten(2).flatten(0, 1) for t in tensors]
        spread = [p.expand(shape[:2]).reshape(-1, 1) for p in parameters]
    elif any(p.dim() > 1 for p in parameters):  # channels innermost
        dim, views = 1, [t.movedim(1, -1).flatten(1, -2) if len(shape) > 2 else t[:, None] for t in tensors]
        spread = [p.expand(shape[:2])[:, None] for p in parameters]
    else:
        dim, views = 0, [t.movedim(1, -1).flatten(0, -2) for t in tensors]
        spread = [p.expand(views[0].shape) for p in parameters]
    length = max(1, BLOCK * len(views[0]) // numel)
    return zip(repeat(dim), *(view.split(length) for view in (*views, *spread)))

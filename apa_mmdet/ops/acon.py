"""ACON on tensors, and what activations with hand-derived gradients and parameters per channel have in common.

With d = p1 − p2, k = β·d, s = σ(kx) and t = σ(−kx) = 1 − s, S = x·(d·s + p2) and

    ∂S/∂x = p1·s + p2·t + d·k·x·s·t        ∂S/∂p1 = x·s + k·x²·s·t
    ∂S/∂β = d²·x²·s·t                      ∂S/∂p2 = x·t − k·x²·s·t

so three sums a channel give all gradients of parameters. t is computed as such: 1 − s keeps no digit of it from kx = 17
on, where x² may be large.
"""
from itertools import repeat
from typing import Callable, Iterator, List, Sequence, Tuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .. import ops
from .layout import against, compute_dtype, empty_result, in_order_of

LARGEST = 1e15  # |x| of bfloat16 in gradients: the sums of x² stay in float32
BLOCK = 1 << 16  # elements handled at a time on a CPU: the temporaries of one block stay in the L2 cache


def acon(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor) -> Tensor:
    """A smooth maximum of two lines, ``(p1 − p2)·x·σ(β·(p1 − p2)·x) + p2·x``.

    β → ∞ gives max(p1·x, p2·x), β = 0 their mean; p1 = 1, p2 = 0 is Swish, with β = 1 SiLU. The slope tends to p1 and
    p2 at the ends, and stays between 1.0998·p1 − 0.0998·p2 and 1.0998·p2 − 0.0998·p1.

    Source: Ma et al., *Activate or Not: Learning Customized Activation*, CVPR 2021, arXiv:2009.04759.

    Args:
        x: any shape, float16, bfloat16, float32 or float64. Half precisions are computed in float32.
        p1, p2, beta: each one value, one per channel (dimension 1 of ``x``) of shape (C,), or one per image and
            channel, (N, C).

    Returns:
        A tensor of the shape and dtype of ``x``. Finite wherever ``p1·x`` and ``p2·x`` are in that dtype; the gradient
        to β grows as x², and takes |x| > 1e15 in bfloat16 as 1e15. Only the arguments are kept for backward.

    Raises:
        ValueError: if a parameter has none of its shapes, or lies on another device.
        TypeError: if ``x`` is not of a floating point dtype.

    Example:
        >>> one, zero = torch.ones(1), torch.zeros(1)
        >>> acon(torch.tensor([-2., 2.]), one, zero, one)      # SiLU
        tensor([-0.2384,  1.7616])
    """
    p1, p2, beta = parameters_of(x, p1=p1, p2=p2, beta=beta)
    if torch.onnx.is_in_onnx_export():
        return value(_acon, x, (p1 - p2) * beta, p1 - p2, p2)
    return Acon.apply(x, p1, p2, beta)


class Acon(Function):
    """Keeps its arguments, and nothing else, for backward."""

    @staticmethod
    def forward(ctx, x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor) -> Tensor:
        ctx.save_for_backward(x, p1, p2, beta)
        return value(_acon, x, (p1 - p2) * beta, p1 - p2, p2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tuple[Tensor, ...]:
        x, p1, p2, beta = ctx.saved_tensors
        d, k = p1 - p2, (p1 - p2) * beta
        to_x, with_s, with_t, with_st = gradients(_acon_gradients, grad, x, k, p1, p2, k * d)
        to_p1, to_p2, to_beta = with_s + k * with_st, with_t - k * with_st, d.square() * with_st
        return (to_x, to_p1.sum_to_size(p1.shape), to_p2.sum_to_size(p2.shape), to_beta.sum_to_size(beta.shape))


def _acon(x: Tensor, k: Tensor, d: Tensor, p2: Tensor) -> Tensor:
    return (x * k).sigmoid_().mul_(d).add_(p2).mul_(x)


def _acon_gradients(grad: Tensor, x: Tensor, k: Tensor, p1: Tensor, p2: Tensor, kd: Tensor) -> Tuple[Tensor, ...]:
    """The gradient to x; grad times x·s, x·t and x²·s·t."""
    v = x * k
    t = v.neg().sigmoid_()
    s = v.sigmoid_()
    st = (s * t).mul_(x).mul_(grad)
    s.mul_(grad)
    t.mul_(grad)
    to_x = (s * p1).addcmul_(t, p2).addcmul_(st, kd)
    return to_x, s.mul_(x), t.mul_(x), st.mul_(x)


def parameters_of(x: Tensor, **parameters: Tensor) -> List[Tensor]:
    """The parameters in the dtype that ``x`` is computed in, of shape (), (C,) or (N, C).

    Raises:
        ValueError, TypeError: as :func:`acon`.
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
    return ops.is_compiling() or torch.jit.is_tracing() or x.device.type != 'cpu' or x.numel() <= BLOCK


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

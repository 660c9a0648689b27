"""ACON: the function and its gradients.

With d = p1 − p2, k = β·d, s = σ(kx) and t = σ(−kx) = 1 − s, S = x·(d·s + p2) and

    ∂S/∂x = p1·s + p2·t + d·k·x·s·t        ∂S/∂p1 = x·s + k·x²·s·t
    ∂S/∂β = d²·x²·s·t                      ∂S/∂p2 = x·t − k·x²·s·t

so three sums per channel give all gradients of parameters. t is computed by itself: 1 − s has no digit of it left from
kx = 17 on, where x² may be large.
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .elementwise import gradients, parameters_of, value


def acon(x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor) -> Tensor:
    """Computes ACON, a smooth maximum of two lines: ``(p1 − p2)·x·σ(β·(p1 − p2)·x) + p2·x``.

    β → ∞ gives max(p1·x, p2·x), β = 0 their mean; p1 = 1, p2 = 0 is Swish, with β = 1 SiLU. The slope tends to p1 and
    p2 at the ends, and stays between 1.0998·p1 − 0.0998·p2 and 1.0998·p2 − 0.0998·p1.

    Source: Ma et al., *Activate or Not: Learning Customized Activation*, CVPR 2021, arXiv:2009.04759.

    Args:
        x: any shape, float16, bfloat16, float32 or float64. Half precisions are computed in float32.
        p1, p2, beta: each one value, one per channel (dimension 1 of ``x``) of shape (C,), or one per image and
            channel, (N, C).

    Returns:
        A tensor of the shape and dtype of ``x``. Finite wherever ``p1·x``, ``p2·x`` and ``(p1 − p2)·β`` are in that
        dtype, exact to some units of rounding of the larger of ``|p1·x|`` and ``|p2·x|``. The gradients to parameters
        grow as x²: float32 holds them up to |x| = 1e15, to which larger values of bfloat16 are limited. Only the
        arguments are kept for backward.

    Raises:
        ValueError: if a parameter has another shape or is on another device.
        TypeError: if the dtype of ``x`` is not a floating point one.

    Example:
        >>> import torch
        >>> one, zero = torch.ones(1), torch.zeros(1)
        >>> acon(torch.tensor([-2., 2.]), one, zero, one)      # SiLU
        tensor([-0.2384,  1.7616])
    """
    p1, p2, beta = parameters_of(x, p1=p1, p2=p2, beta=beta)
    if torch.jit.is_tracing():  # in plain operators: other programs cannot run a Function
        return value(_traced, x, (p1 - p2) * beta, p1 - p2, p2)
    return Acon.apply(x, p1, p2, beta)


class Acon(Function):
    """Keeps only its arguments for backward."""

    @staticmethod
    def forward(ctx, x: Tensor, p1: Tensor, p2: Tensor, beta: Tensor) -> Tensor:
        ctx.save_for_backward(x, p1, p2, beta)
        return value(_acon, x, (p1 - p2) * beta, p1 - p2, p2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        x, p1, p2, beta = ctx.saved_tensors
        d, k = p1 - p2, (p1 - p2) * beta
        to_x, with_s, with_t, with_st = gradients(_acon_gradients, grad, x, k, p1, p2, k * d)
        to_p1, to_p2, to_beta = with_s + k * with_st, with_t - k * with_st, d.square() * with_st
        return (to_x, to_p1.sum_to_size(p1.shape), to_p2.sum_to_size(p2.shape), to_beta.sum_to_size(beta.shape))


def _acon(x: Tensor, k: Tensor, d: Tensor, p2: Tensor) -> Tensor:
    return (x * k).sigmoid_().mul_(d).add_(p2).mul_(x)


def _traced(x: Tensor, k: Tensor, d: Tensor, p2: Tensor) -> Tensor:
    return ((x * k).sigmoid() * d + p2) * x


def _acon_gradients(grad: Tensor, x: Tensor, k: Tensor, p1: Tensor, p2: Tensor, kd: Tensor) -> tuple[Tensor, ...]:
    """Returns the gradient to x, and grad times x·s, x·t and x²·s·t."""
    v = x * k
    t = v.neg().sigmoid_()
    s = v.sigmoid_()
    st = (s * t).mul_(x).mul_(grad)
    s.mul_(grad)
    t.mul_(grad)
    to_x = (s * p1).addcmul_(t, p2).addcmul_(st, kd)
    return to_x, s.mul_(x), t.mul_(x), st.mul_(x)

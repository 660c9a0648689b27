"""APALU: the function and its gradients.

APALU = a·x₊·(1 + s) + b·expm1(x₋) with x₊ = max(x, 0), x₋ = min(x, 0) and s = σ(1.702·x₊).

∂/∂x = a·(1 + s + 1.702·x·s·(1 − s)) for x > 0, b·exp(x) else        ∂/∂a = x₊·(1 + s)        ∂/∂b = expm1(x₋)
"""

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .elementwise import gradients, parameters_of, value


def apalu(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Computes APALU: ``a·(x + x·σ(1.702·x))`` for x ≥ 0, ``b·(exp(x) − 1)`` below.

    Continuous; the slope at 0 is 1.5·a from above and b from below, so it has no kink where b = 1.5·a. It tends to −b
    and to the line 2a·x.

    Source: *APALU: A Trainable, Adaptive Activation Function for Deep Learning Networks*, arXiv:2402.08244.

    Args:
        x: any shape, float16, bfloat16, float32 or float64. Half precisions are computed in float32.
        a, b: each one value, one per channel (dimension 1 of ``x``) of shape (C,), or one per image and channel,
            (N, C); positive in the paper, any sign here.

    Returns:
        A tensor of the shape and dtype of ``x``. Finite wherever 2a·x and b are in that dtype. Only the arguments are
        kept for backward.

    Raises:
        ValueError: if a parameter has another shape or is on another device.
        TypeError: if the dtype of ``x`` is not a floating point one.

    Example:
        >>> a, b = torch.tensor(.5), torch.tensor(.75)
        >>> apalu(torch.tensor([-1., 0., 1.]), a, b)      # .75·(1/e − 1), 0, (1 + σ(1.702))/2
        tensor([-0.4741,  0.0000,  0.9229])
    """
    a, b = parameters_of(x, a=a, b=b)
    if torch.jit.is_tracing():  # in plain operators: other programs cannot run a Function
        return value(_traced, x, a, b)
    return Apalu.apply(x, a, b)


class Apalu(Function):
    """Keeps only its arguments for backward.

    1.702, with which x·σ(1.702·x) is close to GELU, is a literal for the reason given in elementwise.py.
    """

    @staticmethod
    def forward(ctx, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, a, b)
        return value(_apalu, x, a, b)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        x, a, b = ctx.saved_tensors
        to_x, to_a, to_b = gradients(_apalu_gradients, grad, x, a, b)
        return to_x, to_a.sum_to_size(a.shape), to_b.sum_to_size(b.shape)


def _apalu(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    h = x.clamp(max=0).mul_(0.5).tanh_()
    below = h.div_(1 - h).mul_(2 * b)  # b·expm1(x), exact near 0, in half the time; ONNX lacks expm1
    positive = x.clamp(min=0)
    return (positive * 1.702).sigmoid_().mul_(a).add_(a).mul_(positive).add_(below)


def _traced(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    h = (x.clamp(max=0) * 0.5).tanh()
    positive = x.clamp(min=0)
    return ((positive * 1.702).sigmoid() * a + a) * positive + h / (1 - h) * (2 * b)


def _apalu_gradients(grad: Tensor, x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """Returns the gradient to x, and grad times x₊·(1 + s) and expm1(x₋).

    grad is split in two, each 0 on one side of x = 0: torch.where takes twenty times as long on a CPU.
    """
    above = torch.ops.aten.threshold_backward(grad, x, 0)
    below = grad - above
    e = x.clamp(max=0).exp_().mul_(below)
    s = (x * 1.702).sigmoid_()
    slope = torch.ops.aten.sigmoid_backward(x, s).mul_(1.702 * a).addcmul_(s.add_(1), a)
    to_x = slope.mul_(above).addcmul_(e, b)
    return to_x, s.mul_(x).mul_(above), e.sub_(below)

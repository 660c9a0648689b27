import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .memory_layout import result_of


def wrapped_cauchy_logit(dot: Tensor, u: Tensor, b: Tensor, g: Tensor, scale: Tensor) -> Tensor:
    """Returns the logit of c = dot·u + b, (N, C), from dot (N, C), u, b and g (C,) and s; see WrappedCauchyLinear."""
    if not torch.jit.is_tracing():
        return WrappedCauchyLogit.apply(dot, u, b, g, scale)
    gamma, rest, a = _concentration(g, scale)  # in plain operators: other programs cannot run a Function
    divisor, beyond = _divisor(torch.addcmul(b, dot, u), gamma, rest)
    return a / divisor * (beyond / rest.square() + 1)


class WrappedCauchyLogit(Function):
    """Backward keeps only dot, and at most two tensors of its size are allocated at a time; autograd would keep five.

    With d = (1 − γ)² + 2γ(1 − c), m = (1 − γ)², its value at c = 1, r = max(m − d, 0) and a = s/2π·(1 − γ²) the logit
    is a/(d + r)·(1 + r/m): a/d up to c = 1, its tangent beyond.
    """

    @staticmethod
    def forward(ctx, dot: Tensor, u: Tensor, b: Tensor, g: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(dot, u, b, g, scale)
        gamma, rest, a = _concentration(g, scale)
        divisor, beyond = _divisor(torch.addcmul(b, dot, u), gamma, rest)
        return result_of(divisor.reciprocal_().mul_(a).mul_(beyond.div_(rest.square()).add_(1)))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        dot, u, b, g, scale = ctx.saved_tensors
        gamma, rest, a = _concentration(g, scale)
        divisor, beyond = _divisor(torch.addcmul(b, dot, u), gamma, rest)
        slope = divisor.square_().reciprocal_().mul_(a).mul_(grad)  # −grad·∂out/∂d
        # the derivatives of the parameters are sums over the RoIs of slope, slope·r and slope·dot
        total, with_beyond = slope.sum(0), beyond.mul_(slope).sum(0)
        with_dot = torch.mul(slope, dot, out=beyond).sum(0)
        with_c = with_dot * u + total * b
        logits = (rest.square() + 2 * gamma) * total - 2 * gamma * with_c + 2 * with_beyond  # Σ grad·out
        to_g = (
            gamma * rest * 2 * (with_c - gamma * total)
            + 4 * gamma * with_beyond
            - 2 * gamma.square() / (1 + gamma) * logits
        )
        return slope.mul_(2 * gamma * u), 2 * gamma * with_dot, 2 * gamma * total, to_g, logits.sum() / scale


def _concentration(g: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """γ, 1 − γ and a."""
    g = g.clamp(-15, 15)  # (1 − γ)² stays above 9e-14, and its inverse and that one's square in float32
    gamma, rest = g.sigmoid(), (-g).sigmoid()
    # 2π as a literal: with dynamic shapes torch.compile makes a graph input of math.pi, and fails on a second call
    return gamma, rest, scale / 6.283185307179586 * rest * (1 + gamma)


def _divisor(c: Tensor, gamma: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """d + r, in the memory of c, and r."""
    d = c.neg_().add_(1).mul_(2 * gamma).add_(rest.square())
    r = (rest.square() - d).clamp_(min=0)
    return d.add_(r), r

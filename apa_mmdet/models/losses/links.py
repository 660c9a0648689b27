"""Links from a logit x to the probability p of one class, and the two logarithms of a binary cross entropy.

Each link has ``forward(x)`` → p, ``neg_log(x)`` → −log p and ``neg_log_complement(x)`` → −log(1 − p), for x of any
shape. Half precisions are computed in float32; the result is float32 (float64 for float64), as a loss should be.

``product(x, shift)`` is the logit y with p(y) = p(x)·p(x + shift), which calibrates scores: of it the same code makes
them as of any logit. A shift of +inf leaves x as it is.

With y = −log p, the complement is −log(1 − p) = −log(−expm1(−y)). Its derivative −1/expm1(y) is written by hand:
autograd would save three tensors of the size of the logits and round small derivatives to zero.

The bound of the logits is 10, since exp(10) = 22026: beyond it one negative RoI would outweigh a whole batch. It is a
literal: with dynamic shapes torch.compile makes a graph input of a global float, and fails on a second call.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from apa_mmdet.models.activations import APA, LearnableFunction
from apa_mmdet.ops import LAMBDA_FLOOR, apa, neg_log_apa
from apa_mmdet.ops.memory_layout import result_of


class SigmoidLink(nn.Module):
    """p = σ(x), −log p = softplus(−x), −log(1 − p) = softplus(x). The logits are not clamped.

    Example:
        >>> SigmoidLink().neg_log_complement(torch.zeros(1))      # log 2
        tensor([0.6931])
    """

    def forward(self, x: Tensor) -> Tensor:
        return _wide(x).sigmoid()

    def neg_log(self, x: Tensor) -> Tensor:
        return F.softplus(-_wide(x))

    def neg_log_complement(self, x: Tensor) -> Tensor:
        return F.softplus(_wide(x))

    def product(self, x: Tensor, shift: Tensor) -> Tensor:
        # 1/p(y) − 1 = e^(−x)·(1 + e^(−shift) + e^(−x − shift)), whose logarithm never leaves the logarithms
        x = _wide(x)
        return F.softplus(-F.softplus(shift) - x).neg_().add_(x).sub_(F.softplus(-shift))


class GumbelLink(nn.Module):
    """p = exp(−exp(−x)), −log p = exp(−x), −log(1 − p) = −log(−expm1(−exp(−x))).

    The logarithms clamp x to [−10, 10], with no gradient outside. p does not, so that scores above 10 still differ.

    Source: Alexandridis et al., *Long-tailed Instance Segmentation using Gumbel Optimized Loss*, ECCV 2022,
    arXiv:2207.10936.

    Example:
        >>> link = GumbelLink()
        >>> link(torch.zeros(1)), link.neg_log(torch.zeros(1))      # 1/e and 1
        (tensor([0.3679]), tensor([1.]))
    """

    def forward(self, x: Tensor) -> Tensor:
        # below −10 p is 0 even in float64, and its derivative would become 0 · inf
        return _wide(x).clamp(min=-10.0).neg().exp().neg().exp()

    def neg_log(self, x: Tensor) -> Tensor:
        return _bounded(x).neg().exp()

    def neg_log_complement(self, x: Tensor) -> Tensor:
        return _GumbelComplement.apply(x)

    def product(self, x: Tensor, shift: Tensor) -> Tensor:
        # −log p is exponential in x: that of a product is e^(−x)·(1 + e^(−shift))
        return _wide(x) - F.softplus(-shift)


class APALink(LearnableFunction):
    """Learnable link: p = APA(x; λ, κ) = (λ·exp(−κx) + 1)^(−1/λ), −log p = log1p(λ·exp(−κx))/λ.

    λ = κ = 1, the start, is the sigmoid; λ → 0 is the Gumbel link. Because of that limit, in which −log p is
    exponential in x, the logarithms clamp x to [−10, 10] as they do there, with no gradient outside.

    Source: Alexandridis et al., *Adaptive Parametric Activation*, ECCV 2024, arXiv:2407.08567.

    Args:
        lambda_init: start of λ, at least 1e-4 (the floor of λ, below which it has no gradient).
        kappa_init: start of κ; any sign.

    Raises:
        ValueError: if ``lambda_init`` lies below the floor.

    Example:
        >>> APALink(lambda_init=0.5)(torch.zeros(1)).detach()      # 1.5 to the power −2
        tensor([0.4444])
    """

    symbols = APA.symbols

    def __init__(self, lambda_init: float = 1.0, kappa_init: float = 1.0) -> None:
        super().__init__()
        if not lambda_init >= LAMBDA_FLOOR:
            raise ValueError(f'APALink: lambda_init must be at least {LAMBDA_FLOOR:g}, got {lambda_init}')
        self.lambda_ = nn.Parameter(torch.full((1,), float(lambda_init)))
        self.kappa = nn.Parameter(torch.full((1,), float(kappa_init)))

    def forward(self, x: Tensor) -> Tensor:
        return apa(_wide(x), self.lambda_, self.kappa)

    def neg_log(self, x: Tensor) -> Tensor:
        return neg_log_apa(_bounded(x), self.lambda_, self.kappa)

    def neg_log_complement(self, x: Tensor) -> Tensor:
        # Where p rounds to 1, i.e. max(λ, 1)·exp(−κx) is below the dtype's rounding, y = exp(−κx) vanishes and 1/y
        # overflows. There −log(1 − p) = −log y = κx to the last digit, and is computed so.
        x = _bounded(x)
        scaled = self.kappa.to(x.dtype) * x
        bound = self.lambda_.detach().clamp(min=1).log().to(x.dtype) - math.log(torch.finfo(x.dtype).eps)
        saturated = scaled > bound
        y = neg_log_apa(x, self.lambda_, self.kappa).masked_fill(saturated, 1)
        return torch.where(saturated, scaled, _NegLogComplement.apply(y))

    def product(self, x: Tensor, shift: Tensor) -> Tensor:
        # as that of the sigmoid, which is λ = κ = 1
        lambda_, scaled = self.lambda_.detach().clamp(min=LAMBDA_FLOOR), self.kappa.detach() * shift
        x = _wide(x)
        excess = F.softplus(lambda_.log() - F.softplus(scaled) - self.kappa.detach() * x) + F.softplus(-scaled)
        return x - excess / self.kappa.detach()


LINKS: dict[str, type[nn.Module]] = dict(sigmoid=SigmoidLink, gumbel=GumbelLink, apa=APALink)


def build_link(link: str | dict) -> nn.Module:
    """Builds a link from its name, or from ``dict(type=name, ...)`` with the arguments of its class.

    Raises:
        ValueError: if the name is not one of ``LINKS``.

    Example:
        >>> build_link(dict(type='apa', lambda_init=0.5)).lambda_.item()
        0.5
    """
    arguments = dict(link) if isinstance(link, dict) else dict(type=link)
    name = arguments.pop('type', None)
    if not isinstance(name, str) or name not in LINKS:
        raise ValueError(f'unknown link {link!r}: known links are {", ".join(sorted(LINKS))}')
    return LINKS[name](**arguments)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _bounded(x: Tensor) -> Tensor:
    return _wide(x).clamp(-10.0, 10.0)


class _GumbelComplement(Function):
    """−log(1 − exp(−exp(−x))), in one new tensor; only x is kept for backward."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        y = _bounded(x).neg_().exp_()
        return result_of(y.neg_().expm1_().neg_().log_().neg_())

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        y = _bounded(x).neg_().exp_()
        # the derivative is y/expm1(y); expm1 overflows to inf where that is zero
        slope = y.div_(torch.expm1(y)).mul_(grad)
        return slope.masked_fill_(x.abs() > 10.0, 0).to(x.dtype)


class _NegLogComplement(Function):
    """−log(−expm1(−y)) of y = −log p > 0, with the derivative −1/expm1(y)."""

    @staticmethod
    def forward(ctx, y: Tensor) -> Tensor:
        ctx.save_for_backward(y)
        return result_of(y.neg().expm1_().neg_().log_().neg_())

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return grad / torch.expm1(y).neg_()

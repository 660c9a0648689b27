"""Hand-derived forward and backward in plain PyTorch: any device, and only z, λ, κ are kept for backward.

With a = −κz, w = λ·e^a, L = log1p(w), q = e^a/(1 + w) and p = APA = exp(−L/λ):

    ∂p/∂z = κ·p·q        ∂p/∂κ = z·p·q        ∂p/∂λ = p·(L/λ − q)/λ

AGLU multiplies p by z and adds p to ∂/∂z. Two things need care in finite precision.

*Cancellation.* L/λ − q = (L − w/(1+w))/λ subtracts nearly equal numbers when w is small. With s = w/(2 + w),
L = 2·artanh(s) and w/(1 + w) = 2s/(1 + s), hence

    L − w/(1+w) = 2s²·[1/(1+s) + s/3 + s³/5 + s⁵/7 + …]

in which every term is positive. The series serves w < 1/2 (s < 1/5), the difference itself the rest.

*Overflow.* e^a leaves float32 at a = 88. Above A = 60 the 1 in log1p(w) is below the rounding even of float64
(λ ≥ 1e-4), so L continues as the straight line L(A) + (a − A), and q = 1/λ.
"""
from typing import Iterator, Tuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

STRAIGHT = 60.  # A above
FARTHEST = 1e8  # beyond A; farther changes no result, but would become inf · 0
LARGEST = 1e15  # |z| in gradients: beyond it z²·p·q, which grows as z² where κ = 0, would leave float32
SERIES_BELOW = 0.5  # in w
SERIES = [1 / (2 * k + 3) for k in range(9)]  # the next term is below 1.3e-14 at s = 1/5
BLOCK = 1 << 16  # elements handled at a time on a CPU: the temporaries of one block stay in the L2 cache


def log_terms(z: Tensor, lambda_: Tensor, kappa: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """e^min(a, A), w = λ·e^min(a, A) and max(0, a − A), finite for every finite ``z``; L = log1p(w) + the last."""
    a = z * -kappa
    e = a.clamp(max=STRAIGHT).exp_()
    return e, e * lambda_, a.sub_(STRAIGHT).clamp_(0, FARTHEST)


def difference_by_series(w: Tensor, log1p_w: Tensor) -> Tensor:
    """log1p(w) − w/(1 + w), to a relative 1e-6 in float32 and 1e-14 in float64."""
    s = w / (w + 2)
    square = s.square()
    series = square * SERIES[-1]
    for coefficient in SERIES[-2:0:-1]:
        series.add_(coefficient).mul_(square)
    series.add_(SERIES[0]).mul_(s).add_(s.add_(1).reciprocal_()).mul_(square).mul_(2)
    return torch.where(w < SERIES_BELOW, series, log1p_w - w / (w + 1))


def log_and_difference(w: Tensor, beyond: Tensor) -> Tuple[Tensor, Tensor]:
    """L and L − w/(1 + w), of :func:`log_terms`."""
    if w.dtype == torch.float32 and w.device.type == 'cpu':
        # in float64 the plain difference keeps all the digits of float32, at 40% of the time of the series
        wide = w.double()
        log = wide.log1p()
        difference = (log - wide.div_(wide + 1)).float()
        return log.float().add_(beyond), difference.add_(beyond)
    log = w.log1p()
    difference = difference_by_series(w, log)
    return log.add_(beyond), difference.add_(beyond)


def _value(formula: str, z: Tensor, lambda_: Tensor, kappa: Tensor) -> Tensor:
    _, w, beyond = log_terms(z, lambda_, kappa)
    log = beyond.add_(w.log1p_())
    if formula == 'neg_log_apa':
        return log.div_(lambda_)
    p = log.div_(-lambda_).exp_()
    return p if formula == 'apa' else p.mul_(z)


def _gradients(formula: str, grad: Tensor, z: Tensor, lambda_: Tensor, kappa: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """Gradients to z, λ and κ, the latter two not reduced yet.

    With u = grad·p (APA), grad·z·p (AGLU) or −grad (−log APA) they are κ·u·q (AGLU: + grad·p),
    u·(L/λ − q)/λ and z·u·q.
    """
    z = z.clamp(-LARGEST, LARGEST)
    e, w, beyond = log_terms(z, lambda_, kappa)
    log, difference = log_and_difference(w, beyond)
    direct = None
    if formula == 'neg_log_apa':
        u = -grad
    else:
        u = log.div_(-lambda_).exp_().mul_(grad)
    if formula == 'aglu':
        direct, u = u, u * z
    uq = e.div_(w.add_(1)).mul_(u)
    to_kappa = z.mul_(uq)
    to_z = uq.mul_(kappa)
    if direct is not None:
        to_z.add_(direct)
    return to_z, difference.mul_(u).div_(lambda_.square()), to_kappa


def _in_memory_order_of(out: Tensor, tensor: Tensor) -> Tensor:
    return tensor if tensor.stride() == out.stride() else torch.empty_like(out).copy_(tensor)


def _blocks(per_channel: bool, *tensors: Tensor) -> Iterator[Tuple[Tensor, ...]]:
    """Views that cover dense tensors of one shape and memory order, in step."""
    size, numel = len(tensors[0]) if tensors[0].dim() else 1, tensors[0].numel()
    if tensors[0].device.type != 'cpu' or numel <= BLOCK:
        return iter([tensors])
    if per_channel:
        return zip(*(t.split(max(1, BLOCK * size // numel)) for t in tensors))
    return zip(*(t.as_strided((numel, ), (1, )).split(BLOCK) for t in tensors))


class Parametric(Function):
    """``formula``, one of ``apa``, ``aglu``, ``neg_log_apa``, of z with λ and κ that broadcast against it.

    Computes in float32 (float64 for float64 input) and returns the dtype of ``z``.
    """

    @staticmethod
    def forward(ctx, formula: str, z: Tensor, lambda_: Tensor, kappa: Tensor) -> Tensor:
        ctx.formula = formula
        ctx.save_for_backward(z, lambda_, kappa)
        dtype = torch.promote_types(z.dtype, torch.float32)
        lambda_, kappa = lambda_.to(dtype), kappa.to(dtype)
        out = torch.empty_like(z)
        for z_, out_ in _blocks(lambda_.dim() + kappa.dim() > 0, _in_memory_order_of(out, z), out):
            out_.copy_(_value(formula, z_.to(dtype), lambda_, kappa))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        z, lambda_, kappa = ctx.saved_tensors
        dtype = torch.promote_types(z.dtype, torch.float32)
        wide = lambda_.to(dtype), kappa.to(dtype)
        grad_z = torch.empty_like(z)
        grad_lambda, grad_kappa = (torch.zeros_like(parameter) for parameter in wide)
        tensors = (_in_memory_order_of(grad_z, t) for t in (grad, z))
        for grad_, z_, grad_z_ in _blocks(lambda_.dim() + kappa.dim() > 0, *tensors, grad_z):
            to_z, to_lambda, to_kappa = _gradients(ctx.formula, grad_.to(dtype), z_.to(dtype), *wide)
            grad_z_.copy_(to_z)
            grad_lambda += to_lambda.sum_to_size(grad_lambda.shape)
            grad_kappa += to_kappa.sum_to_size(grad_kappa.shape)
        return None, grad_z, grad_lambda.to(lambda_.dtype), grad_kappa.to(kappa.dtype)

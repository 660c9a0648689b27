"""Computes forward and hand-derived backward in plain PyTorch, on any device; backward needs only z, λ and κ.

With a = −κz, w = λ·e^a, L = log1p(w), q = e^a/(1 + w) and p = APA = exp(−L/λ):

    ∂p/∂z = κ·p·q        ∂p/∂κ = z·p·q        ∂p/∂λ = p·(L/λ − q)/λ

AGLU multiplies p by z and adds p to ∂/∂z. Two things need care in finite precision.

*Cancellation.* L/λ − q = (L − w/(1+w))/λ subtracts nearly equal numbers when w is small. With s = w/(2 + w),
L = 2·artanh(s) and w/(1 + w) = 2s/(1 + s), hence

    L − w/(1+w) = 2s²·[1/(1+s) + s/3 + s³/5 + s⁵/7 + …]

in which every term is positive. The series is used for w < 1/2 (s < 1/5), the difference itself elsewhere.

*Overflow.* e^a leaves float32 at a = 88. Above A = 60 the 1 in log1p(w) is below the rounding even of float64
(λ ≥ 1e-4), so L continues as the straight line L(A) + (a − A), and q = 1/λ.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from apa_mmdet.ops.elementwise import BLOCK, blocks
from apa_mmdet.ops.memory_layout import (
    DIFFERENTIABLE,
    LAMBDA_FLOOR,
    Arguments,
    Norm,
    against,
    compute_dtype,
    empty_result,
    in_order_of,
)

LINEAR_FROM = 60.0  # A above
MAX_BEYOND = 1e8  # of a − A: more changes no APA, but would become inf·0
MAX_INPUT = 1e15  # |z| in gradients, which grow as z²: float32 holds their sums
SERIES_BELOW = 0.5  # in w
SERIES = [1 / (2 * k + 3) for k in range(9)]  # the next term is below 1.3e-14 at s = 1/5

# MKL chooses its vector functions at their first call. When two threads made that call at once, about one start in
# twenty computed exp in float64 to 9 digits only. A call with one element is made by one thread.
for _dtype in (torch.float32, torch.float64):
    torch.ones(1, dtype=_dtype).exp_().log1p_()


def log_terms(z: Tensor, lambda_: Tensor, kappa: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns e^min(a, A), w = λ·e^min(a, A) and max(0, a − A), finite for every finite z; L = log1p(w) + the last."""
    a = z * -kappa
    e = a.clamp(max=LINEAR_FROM).exp_()
    return e, e * lambda_, a.sub_(LINEAR_FROM).clamp_(0, MAX_BEYOND)


def difference_by_series(w: Tensor, log1p_w: Tensor) -> Tensor:
    """Returns log1p(w) − w/(1 + w) to a relative error of 1e-6 in float32 and 1e-14 in float64."""
    s = w / (w + 2)
    square = s.square()
    series = square * SERIES[-1]
    for coefficient in SERIES[-2:0:-1]:
        series.add_(coefficient).mul_(square)
    series.add_(SERIES[0]).mul_(s).add_(s.add_(1).reciprocal_()).mul_(square).mul_(2)
    return torch.where(w < SERIES_BELOW, series, log1p_w - w / (w + 1))


def log_and_difference(w: Tensor, beyond: Tensor) -> tuple[Tensor, Tensor]:
    """Returns L and L − w/(1 + w), from the terms of :func:`log_terms`."""
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


def _gradients(formula: str, grad: Tensor, z: Tensor, lambda_: Tensor, kappa: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients to z, λ and κ, each of the shape of z.

    With u = grad·p (APA), grad·z·p (AGLU) or −grad (−log APA) they are κ·u·q (AGLU: + grad·p),
    u·(L/λ − q)/λ and z·u·q.
    """
    z = z.clamp(-MAX_INPUT, MAX_INPUT)  # z²·p·q grows as z² where κ = 0
    e, w, beyond = log_terms(z, lambda_, kappa)
    log, difference = log_and_difference(w, beyond)
    direct = -grad if formula == 'neg_log_apa' else log.div_(-lambda_).exp_().mul_(grad)
    u = direct * z if formula == 'aglu' else direct
    uq = e.div_(w.add_(1)).mul_(u)
    to_kappa = z.mul_(uq)
    to_z = uq.mul_(kappa)
    if formula == 'aglu':
        to_z.add_(direct)
    return to_z, difference.mul_(u).div_(lambda_.square()), to_kappa


def _blocks(per_channel: bool, *tensors: Tensor) -> Iterator[Sequence[Tensor]]:
    """Cuts dense tensors of one shape and memory order in step: along images if ``per_channel``, else anywhere."""
    numel = tensors[0].numel()
    if tensors[0].device.type != 'cpu' or numel <= BLOCK:
        return iter([tensors])
    views = tensors if per_channel else [t.as_strided((1, numel, 1), (numel, 1, 1)) for t in tensors]
    return (block for _, *block in blocks(views, split_rows=not per_channel))


class Folded(NamedTuple):
    """What :class:`~apa_mmdet.ops.memory_layout.Arguments` come to: ``x·scale + shift + residual·residual_scale``.

    All but x and residual in the compute dtype; λ at its floor or above. λ and κ: shape () or (C,); scale and shift,
    both or neither: (1, C) or, with a gate, (N, C); residual_scale: (1, C).
    """

    x: Tensor
    lambda_: Tensor
    kappa: Tensor
    scale: Tensor | None
    shift: Tensor | None
    residual: Tensor | None
    residual_scale: Tensor | None


def fold(args: Arguments) -> Folded:
    """Returns the arguments with norms and gate folded into one factor and one summand; differentiable."""
    dtype = compute_dtype(args.x.dtype)
    scale, shift = Norm(*args.norm, args.eps).fold(dtype)
    residual_scale, residual_shift = Norm(*args.residual_norm, args.residual_eps).fold(dtype)
    if args.gate is not None:
        gate = args.gate.to(dtype)
        scale, shift = gate if scale is None else scale * gate, shift if shift is None else shift * gate
    if residual_shift is not None:
        shift = residual_shift if shift is None else shift + residual_shift
    given = scale if scale is not None else shift
    if given is not None:
        scale = torch.ones_like(given) if scale is None else scale
        shift = torch.zeros_like(given) if shift is None else shift
        scale, shift = torch.broadcast_tensors(scale, shift)
    lambda_, kappa = args.lambda_.to(dtype).clamp(min=LAMBDA_FLOOR), args.kappa.to(dtype)
    lambda_, kappa = (p.reshape(()) if p.numel() == 1 else p for p in (lambda_, kappa))
    return Folded(args.x, lambda_, kappa, scale, shift, args.residual, residual_scale)


def input_of(args: Folded) -> Tensor:
    """Returns ``x·scale + shift + residual·residual_scale``."""
    z, dtype = args.x, compute_dtype(args.x.dtype)
    if args.scale is not None and args.shift is not None:
        z = z * against(z, args.scale) + against(z, args.shift)
    if args.residual is not None:
        residual = args.residual.to(dtype)
        if args.residual_scale is not None:
            residual = residual * against(z, args.residual_scale)
        z = z + residual
    return z


def serves(x: Tensor) -> bool:
    return True


def forward(formula: str, args: Arguments) -> Tensor:
    """Computes one of :data:`~apa_mmdet.ops.memory_layout.FORMULAS` in float32, in float64 for float64."""
    dtype = compute_dtype(args.x.dtype)
    out, folded = empty_result(args.x, args.per_channel), fold(args)
    lambda_, kappa = against(out, folded.lambda_), against(out, folded.kappa)
    for z, out_ in _blocks(lambda_.dim() + kappa.dim() > 0, in_order_of(out, input_of(folded)), out):
        out_.copy_(_value(formula, z.to(dtype), lambda_, kappa))
    return out


def backward(formula: str, grad: Tensor, args: Arguments, needed: Sequence[bool]) -> list[Tensor | None]:
    """Returns the gradients to those of ``DIFFERENTIABLE`` that are given and needed, None for the others."""
    dtype, folded = compute_dtype(args.x.dtype), fold(args)
    z = input_of(folded)
    to_z = empty_result(z, args.per_channel).to(dtype)
    lambda_, kappa = against(z, folded.lambda_), against(z, folded.kappa)
    to_lambda, to_kappa = torch.zeros_like(lambda_), torch.zeros_like(kappa)
    tensors = (in_order_of(to_z, t) for t in (grad, z))
    for grad_, z_, to_z_ in _blocks(lambda_.dim() + kappa.dim() > 0, *tensors, to_z):
        to_block, to_lambda_, to_kappa_ = _gradients(formula, grad_.to(dtype), z_.to(dtype), lambda_, kappa)
        to_z_.copy_(to_block)
        to_lambda += to_lambda_.sum_to_size(to_lambda.shape)
        to_kappa += to_kappa_.sum_to_size(to_kappa.shape)
    gradients = dict(
        x=to_z if folded.scale is None else to_z * against(z, folded.scale),
        lambda_=torch.where(args.lambda_ >= LAMBDA_FLOOR, to_lambda.reshape(args.lambda_.shape), 0),
        kappa=to_kappa,
    )
    if args.residual is not None:
        to_residual = to_z if folded.residual_scale is None else to_z * against(z, folded.residual_scale)
        gradients['residual'] = to_residual
    if args.affine or args.residual_affine:
        gradients |= _to_planes(to_z, args)
    results: list[Tensor | None] = []
    for name, wanted in zip(DIFFERENTIABLE, needed):
        tensor = getattr(args, name)
        if tensor is None or not wanted:
            results.append(None)
        else:  # a copy, as the results of an operator must not share memory
            results.append(gradients[name].reshape(tensor.shape).to(tensor.dtype, copy=name == 'residual'))
    return results


def _to_planes(to_z: Tensor, args: Arguments) -> dict[str, Tensor]:
    """Returns the gradients to gate, weights and biases from the gradient to the input of the formula."""
    positions = tuple(range(2, to_z.dim()))

    def planes(t: Tensor) -> Tensor:
        return t.sum(positions) if positions else t

    times_x, plain = planes(to_z * args.x), planes(to_z)
    gradients = {}
    scale, shift = Norm(*args.norm, args.eps).fold(to_z.dtype)
    own = times_x, plain
    if args.gate is not None:
        to_gate = times_x if scale is None else times_x * scale
        gradients['gate'] = to_gate if shift is None else to_gate + plain * shift
        own = times_x * args.gate, plain * args.gate
    gradients['weight'], gradients['bias'] = _to_norm(*own, args.mean, args.var, args.eps)
    if args.residual is not None and args.residual_affine:
        gradients['residual_weight'], gradients['residual_bias'] = _to_norm(
            planes(to_z * args.residual), plain, args.residual_mean, args.residual_var, args.residual_eps
        )
    return gradients


def _to_norm(
    times_x: Tensor, plain: Tensor, mean: Tensor | None, var: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Returns the gradients to weight and bias from the sums of gradient times input, and of the gradient, (N, C)."""
    to_weight, to_bias = times_x.sum(0), plain.sum(0)
    if mean is not None and var is not None:
        to_weight = (to_weight - mean * to_bias) * (var.to(to_bias.dtype) + eps).rsqrt()
    return to_weight, to_bias

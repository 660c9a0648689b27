"""Triton kernels of APA, AGLU and −log APA: one pass forward, one backward.

analytic.py derives the formulas. They are written here in the form of a softplus, which cannot overflow and takes no
logarithm of an element. With y = log₂ λ − κz·log₂ e, so that w = 2^y, and t = 2^−|y|, between 0 and 1:

    L = log₂(1 + w) = max(y, 0) + log₂(1 + t)        w/(1 + w) = 1/(1 + t) where w > 1, t/(1 + t) elsewhere

and log₂(1 + t) = t·(log₂ e + t·R(t)) with a polynomial R. Where w > 1, L − w/(1 + w)·log₂ e is at least 0.27 and is
computed directly; elsewhere it is t²·(log₂ e + (1 + t)·R(t))/(1 + t), whose middle factor falls from 0.72 to 0.56: no
digits cancel.

A program handles tiles of BLOCK_C channels x BLOCK_S positions of one image, so NCHW, channels_last and a tensor
without channels are the same kernel; the compiler gives neighboring threads the elements that are neighbors in
memory. Norms and gates are folded into a factor and a summand a channel at its start. Each program of the backward
pass stores its sums over positions, which the kernel in triton_sums.py adds up to all gradients: no atomics, and the
same result every time.

Triton 2 takes neither tuples nor structs, so that the two kernels name all their arguments.

Memory is meant to be the limit. In half precision an H200 moves an element of the forward pass in the time of some 30
instructions, one of the backward pass in that of 45 to 50. The kernels take 19 and 37 there, in float32, whose elements
take twice as long, 25 and 44. Hence the polynomial and the powers of 2, which are one instruction each, instead of
logarithms, divisions (7) and powers of e (5); and less of both where the result has 11 binary digits at most.
"""

import math

import triton
import triton.language as tl
from triton.language import constexpr

from apa_mmdet.ops import memory_layout

from . import analytic

MAX_BEYOND = constexpr(analytic.MAX_BEYOND * math.log2(math.e))
MAX_INPUT = constexpr(analytic.MAX_INPUT)

LAMBDA_FLOOR = constexpr(memory_layout.LAMBDA_FLOOR)
UNSPECIALIZED = ['inner', 'outer', 'blocks', 'spans', 'tiles']


@triton.jit
def times_log2_e(x):
    """Returns x·log₂ e, in two parts because Triton 2 rounds Python's numbers to float32."""
    return x * 1.44269502162933349609375 + x * 1.92596299112661746887e-8


@triton.jit
def remainder(t, HALF: constexpr):
    """Returns R of log₂(1 + t) = t·(log₂ e + t·R(t)), for 0 <= t <= 1.

    The polynomials are minimax. Their relative errors in log₂(1 + t) and log₂ e + (1 + t)·R(t) are 2e-8 and 1e-7, for
    ``HALF`` precision 5e-7 and 4e-6.
    """
    if t.dtype == tl.float64:
        # With s = t/(2 + t), log1p(t) = 2s + 2s³·(1/3 + s²/5 + s⁴/7 + ...); the omitted terms are below 1e-14.
        # `one` makes each quotient a float64 constant: Triton 2 rounds Python's numbers to float32.
        one = tl.full([1, 1], 1.0, tl.float64)
        s = t / (t + 2.0)
        square = s * s
        series = square * (one / 27) + one / 25
        for k in tl.static_range(11):
            series = series * square + one / (23 - 2 * k)
        r = times_log2_e((s * (1.0 - s) * series - 1.0) * (0.5 - 0.5 * s))
    elif HALF:
        r = t * -0.01501463261 + 0.07324431837
        r = r * t - 0.1689157635
        r = r * t + 0.2654886842
        r = r * t - 0.3567892313
        r = r * t + 0.4806356132
        r = r * t - 0.7213444114
    else:
        r = t * -0.006286337506 + 0.03575019911
        r = r * t - 0.09524667263
        r = r * t + 0.1658772826
        r = r * t - 0.2281844467
        r = r * t + 0.2863157392
        r = r * t - 0.3604638278
        r = r * t + 0.4808904529
        r = r * t - 0.7213474512
    return r


@triton.jit
def terms(z, lambda_, inverse, log_lambda, kappa_2, log2_e, BOUNDED: constexpr, HALF: constexpr):
    """Returns w > 1, t, R(t), log₂(1 + t) and L, ``BOUNDED`` or possibly infinite. All but the first of NaN are NaN."""
    a = kappa_2 * z
    y = log_lambda - a
    above = y > 0
    if HALF:
        t = tl.math.exp2(-tl.abs(y))
    else:  # that has the rounding error of log λ
        t = tl.where(above, inverse, lambda_) * tl.math.exp2(tl.where(above, a, -a))
    r = remainder(t, HALF)
    small = t * (log2_e + t * r)
    large = tl.maximum(y, 0.0)
    if BOUNDED:
        large = tl.minimum(large, MAX_BEYOND)
    return above, t, r, small, large + small


@triton.jit
def curve_terms(
    lambda_ptr,
    kappa_ptr,
    channel,
    there,
    LAMBDA_PER_CHANNEL: constexpr,
    KAPPA_PER_CHANNEL: constexpr,
    COMPUTE: constexpr,
):
    """Returns λ at its floor or above, 1/λ, log₂ λ, κ, κ·log₂ e and log₂ e."""
    if LAMBDA_PER_CHANNEL:
        lambda_ = tl.load(lambda_ptr + channel, mask=there, other=1.0).to(COMPUTE)
    else:
        lambda_ = tl.load(lambda_ptr).to(COMPUTE)
    if KAPPA_PER_CHANNEL:
        kappa = tl.load(kappa_ptr + channel, mask=there, other=1.0).to(COMPUTE)
    else:
        kappa = tl.load(kappa_ptr).to(COMPUTE)
    lambda_ = tl.where(lambda_ < LAMBDA_FLOOR, LAMBDA_FLOOR, lambda_).to(COMPUTE)  # NaN stays
    inverse = 1.0 / lambda_
    inverse += inverse * (1.0 - lambda_ * inverse)  # a GPU's quotient is off by up to 2 ulp, and this one is squared
    log2_e = times_log2_e(tl.full([1, 1], 1.0, COMPUTE))
    return lambda_, inverse, times_log2_e(tl.log(lambda_)), kappa, times_log2_e(kappa), log2_e


@triton.jit
def inverse_deviation(var_ptr, channel, there, EPS: constexpr, COMPUTE: constexpr):
    """Returns 1/√(var + eps), or 1 without a variance."""
    if var_ptr is not None:
        value = 1.0 / tl.sqrt(tl.load(var_ptr + channel, mask=there, other=1.0).to(COMPUTE) + EPS)
    else:
        value = tl.full([1, 1], 1.0, COMPUTE)
    return value


@triton.jit
def fold(mean_ptr, var_ptr, weight_ptr, bias_ptr, channel, there, EPS: constexpr, COMPUTE: constexpr):
    """Returns scale and shift of a norm."""
    scale = inverse_deviation(var_ptr, channel, there, EPS, COMPUTE)
    shift = tl.full([1, 1], 0.0, COMPUTE)
    if weight_ptr is not None:
        scale = scale * tl.load(weight_ptr + channel, mask=there, other=0.0).to(COMPUTE)
    if bias_ptr is not None:
        shift = tl.load(bias_ptr + channel, mask=there, other=0.0).to(COMPUTE)
    if mean_ptr is not None:
        shift = shift - tl.load(mean_ptr + channel, mask=there, other=0.0).to(COMPUTE) * scale
    return scale, shift


@triton.jit
def fold_all(
    mean_ptr,
    var_ptr,
    weight_ptr,
    bias_ptr,
    gate_ptr,
    residual_mean_ptr,
    residual_var_ptr,
    residual_weight_ptr,
    residual_bias_ptr,
    image,
    channels,
    channel,
    there,
    EPS: constexpr,
    RESIDUAL_EPS: constexpr,
    COMPUTE: constexpr,
):
    """Returns scale and shift of x, and the scale of the residual, whose shift is added to that of x."""
    scale, shift = fold(mean_ptr, var_ptr, weight_ptr, bias_ptr, channel, there, EPS, COMPUTE)
    if gate_ptr is not None:
        gate = tl.load(gate_ptr + image * channels + channel, mask=there, other=0.0).to(COMPUTE)
        scale = scale * gate
        shift = shift * gate
    residual_scale, residual_shift = fold(
        residual_mean_ptr,
        residual_var_ptr,
        residual_weight_ptr,
        residual_bias_ptr,
        channel,
        there,
        RESIDUAL_EPS,
        COMPUTE,
    )
    return scale, shift + residual_shift, residual_scale


@triton.jit
def place(
    program, inner, outer, blocks, spans, tiles, CHANNELS_LAST: constexpr, BLOCK_C: constexpr, BLOCK_S: constexpr
):
    """Returns what a program handles: image, span, channels (BLOCK_C, 1), the total of channels and of positions, its
    first position, and its number of tiles. All that goes into offsets has 64 bits.

    ``inner`` is the number of channels or positions, whichever are contiguous in memory. The kernels get it divided by
    ``UNIT``: the compiler makes loads as wide as the number that it knows to divide all offsets.
    """
    outer = outer.to(tl.int64)
    if CHANNELS_LAST:  # in both orders, programs that run side by side are close in memory
        block = program % blocks
        span = program // blocks % spans
        image = program // blocks // spans
        channels = inner
        positions = outer
    else:
        span = program % spans
        block = program // spans % blocks
        image = program // spans // blocks
        channels = outer
        positions = inner
    channel = block.to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)[:, None]
    first = span.to(tl.int64) * tiles * BLOCK_S
    count = tl.minimum((positions - first + (BLOCK_S - 1)) // BLOCK_S, tiles)
    return image.to(tl.int64), span, channel, channels, positions, first, count


@triton.jit
def offset_of(image, channel, position, channels, positions, CHANNELS_LAST: constexpr):
    """Returns the offset of an element, in elements."""
    if CHANNELS_LAST:
        offset = (image * positions + position) * channels + channel
    else:
        offset = (image * channels + channel) * positions + position
    return offset


@triton.jit(do_not_specialize=UNSPECIALIZED)
def forward_kernel(
    x_ptr,
    residual_ptr,
    out_ptr,
    lambda_ptr,
    kappa_ptr,
    mean_ptr,
    var_ptr,
    weight_ptr,
    bias_ptr,
    gate_ptr,
    residual_mean_ptr,
    residual_var_ptr,
    residual_weight_ptr,
    residual_bias_ptr,
    inner,
    outer,
    blocks,
    spans,
    tiles,
    FORMULA: constexpr,
    HALF: constexpr,
    LAMBDA_PER_CHANNEL: constexpr,
    KAPPA_PER_CHANNEL: constexpr,
    AFFINE: constexpr,
    RESIDUAL_AFFINE: constexpr,
    EPS: constexpr,
    RESIDUAL_EPS: constexpr,
    CHANNELS_LAST: constexpr,
    UNIT: constexpr,
    BLOCK_C: constexpr,
    BLOCK_S: constexpr,
):
    """Computes the value. The pointer of a missing tensor is None. AFFINE: x or the residual has a norm or a gate.

    HALF: x is in half precision.
    """
    COMPUTE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    BOUNDED: tl.constexpr = FORMULA == 'neg_log_apa'
    image, span, channel, channels, positions, first, count = place(
        tl.program_id(0), inner.to(tl.int64) * UNIT, outer, blocks, spans, tiles, CHANNELS_LAST, BLOCK_C, BLOCK_S
    )
    there = channel < channels
    lambda_, inverse, log_lambda, kappa, kappa_2, log2_e = curve_terms(
        lambda_ptr, kappa_ptr, channel, there, LAMBDA_PER_CHANNEL, KAPPA_PER_CHANNEL, COMPUTE
    )
    if AFFINE:
        scale, shift, residual_scale = fold_all(
            mean_ptr,
            var_ptr,
            weight_ptr,
            bias_ptr,
            gate_ptr,
            residual_mean_ptr,
            residual_var_ptr,
            residual_weight_ptr,
            residual_bias_ptr,
            image,
            channels,
            channel,
            there,
            EPS,
            RESIDUAL_EPS,
            COMPUTE,
        )
    for i in range(count):
        position = first + i * BLOCK_S + tl.arange(0, BLOCK_S)[None, :]
        mask = there & (position < positions)
        offset = offset_of(image, channel, position, channels, positions, CHANNELS_LAST)
        z = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        if AFFINE:
            z = z * scale + shift
        if residual_ptr is not None:
            residual = tl.load(residual_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
            if RESIDUAL_AFFINE:
                z += residual * residual_scale
            else:
                z += residual
        above, t, r, small, log = terms(z, lambda_, inverse, log_lambda, kappa_2, log2_e, BOUNDED, HALF)
        if FORMULA == 'neg_log_apa':
            value = log * (inverse / log2_e)
        else:
            value = tl.math.exp2(log * -inverse)
        if FORMULA == 'aglu':
            value *= z
        tl.store(out_ptr + offset, value, mask=mask)


@triton.jit(do_not_specialize=UNSPECIALIZED)
def backward_kernel(
    grad_ptr,
    x_ptr,
    residual_ptr,
    grad_x_ptr,
    grad_residual_ptr,
    partials_ptr,
    curve_ptr,
    lambda_ptr,
    kappa_ptr,
    mean_ptr,
    var_ptr,
    weight_ptr,
    bias_ptr,
    gate_ptr,
    residual_mean_ptr,
    residual_var_ptr,
    residual_weight_ptr,
    residual_bias_ptr,
    inner,
    outer,
    blocks,
    spans,
    tiles,
    FORMULA: constexpr,
    HALF: constexpr,
    LAMBDA_PER_CHANNEL: constexpr,
    KAPPA_PER_CHANNEL: constexpr,
    AFFINE: constexpr,
    RESIDUAL_AFFINE: constexpr,
    EPS: constexpr,
    RESIDUAL_EPS: constexpr,
    CHANNELS_LAST: constexpr,
    UNIT: constexpr,
    BLOCK_C: constexpr,
    BLOCK_S: constexpr,
    ROWS: constexpr,
):
    """Computes gradients of elements, and sums for :func:`~.triton_sums.finish_kernel`.

    ``partials``: (images, spans, ROWS, channels), of the gradients to λ and κ where one is per channel, of the gradient
    times x and the gradient if AFFINE, of the gradient times the residual if RESIDUAL_AFFINE. ``curve``: (programs, 2),
    of the gradients to λ and κ where both are one value. Masked elements add 0, as their grad is 0.
    """
    COMPUTE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    image, span, channel, channels, positions, first, count = place(
        tl.program_id(0), inner.to(tl.int64) * UNIT, outer, blocks, spans, tiles, CHANNELS_LAST, BLOCK_C, BLOCK_S
    )
    there = channel < channels
    lambda_, inverse, log_lambda, kappa, kappa_2, log2_e = curve_terms(
        lambda_ptr, kappa_ptr, channel, there, LAMBDA_PER_CHANNEL, KAPPA_PER_CHANNEL, COMPUTE
    )
    if AFFINE:
        scale, shift, residual_scale = fold_all(
            mean_ptr,
            var_ptr,
            weight_ptr,
            bias_ptr,
            gate_ptr,
            residual_mean_ptr,
            residual_var_ptr,
            residual_weight_ptr,
            residual_bias_ptr,
            image,
            channels,
            channel,
            there,
            EPS,
            RESIDUAL_EPS,
            COMPUTE,
        )
    to_lambda = tl.zeros([BLOCK_C, BLOCK_S], COMPUTE)
    to_kappa = tl.zeros([BLOCK_C, BLOCK_S], COMPUTE)
    if AFFINE:
        to_scale = tl.zeros([BLOCK_C, BLOCK_S], COMPUTE)
        to_shift = tl.zeros([BLOCK_C, BLOCK_S], COMPUTE)
    if RESIDUAL_AFFINE:
        to_residual_scale = tl.zeros([BLOCK_C, BLOCK_S], COMPUTE)
    for i in range(count):
        position = first + i * BLOCK_S + tl.arange(0, BLOCK_S)[None, :]
        mask = there & (position < positions)
        offset = offset_of(image, channel, position, channels, positions, CHANNELS_LAST)
        grad = tl.load(grad_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        x = tl.load(x_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
        z = x
        if AFFINE:
            z = z * scale + shift
        if residual_ptr is not None:
            residual = tl.load(residual_ptr + offset, mask=mask, other=0.0).to(COMPUTE)
            if RESIDUAL_AFFINE:
                z += residual * residual_scale
            else:
                z += residual
        above, t, r, small, log = terms(z, lambda_, inverse, log_lambda, kappa_2, log2_e, True, HALF)
        z = tl.minimum(tl.maximum(z, -MAX_INPUT), MAX_INPUT)
        part = tl.math.exp2(-small)  # 1/(1 + t), less a few instructions and digits
        if not HALF:
            part += part * (1.0 - (1.0 + t) * part)  # with all digits, as log − part loses some
        share = t * part
        difference = tl.where(above, log - part * log2_e, share * (small + t * r))  # times log₂ e
        if FORMULA == 'neg_log_apa':
            direct = -grad
        else:
            direct = grad * tl.math.exp2(log * -inverse)
        u = direct
        if FORMULA == 'aglu':
            u *= z
        uq = u * tl.where(above, part, share)  # λ·u·q
        to_z = uq * (kappa * inverse)
        if FORMULA == 'aglu':
            to_z += direct
        to_lambda += u * difference
        to_kappa += z * uq
        if AFFINE:
            to_scale += to_z * x
            to_shift += to_z
            tl.store(grad_x_ptr + offset, to_z * scale, mask=mask)
        else:
            tl.store(grad_x_ptr + offset, to_z, mask=mask)
        if RESIDUAL_AFFINE:
            to_residual_scale += to_z * residual
            tl.store(grad_residual_ptr + offset, to_z * residual_scale, mask=mask)
        elif residual_ptr is not None:
            tl.store(grad_residual_ptr + offset, to_z, mask=mask)
    to_lambda_ = tl.sum(to_lambda, 1)[:, None] * inverse * (inverse / log2_e)
    to_kappa_ = tl.sum(to_kappa, 1)[:, None] * inverse
    if partials_ptr is not None:
        partials_ptr += (image * spans + span) * ROWS * channels + channel
    if LAMBDA_PER_CHANNEL or KAPPA_PER_CHANNEL:
        tl.store(partials_ptr, to_lambda_, mask=there)
        tl.store(partials_ptr + channels, to_kappa_, mask=there)
        partials_ptr += 2 * channels
    else:  # one sum for all channels
        curve_ptr += tl.program_id(0).to(tl.int64) * 2
        tl.store(curve_ptr, tl.sum(to_lambda_))
        tl.store(curve_ptr + 1, tl.sum(to_kappa_))
    if AFFINE:
        tl.store(partials_ptr, tl.sum(to_scale, 1)[:, None], mask=there)
        tl.store(partials_ptr + channels, tl.sum(to_shift, 1)[:, None], mask=there)
    if RESIDUAL_AFFINE:
        tl.store(partials_ptr + 2 * channels, tl.sum(to_residual_scale, 1)[:, None], mask=there)

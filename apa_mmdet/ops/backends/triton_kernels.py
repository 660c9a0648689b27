"""Triton kernels of APA, AGLU and −log APA: one pass forward, one backward.

analytic.py derives the formulas. They are written here in the form of a softplus, which cannot overflow and takes no
logarithm of an element. With y = log λ − κz, so that w = e^y, and t = e^−|y|, between 0 and 1:

    L = log1p(w) = max(y, 0) + log1p(t)        w/(1 + w) = 1/(1 + t) where w > 1, t/(1 + t) elsewhere

and log1p(t) = t·(1 + t·R(t)) with a polynomial R. Where w > 1, L − w/(1 + w) is at least 0.19 and is computed
directly; elsewhere it is t²·(1 + (1 + t)·R(t))/(1 + t), whose middle factor falls from 0.5 to 0.39: no digits cancel.

A program handles tiles of BLOCK_C channels x BLOCK_S positions of one image, so NCHW, channels_last and a tensor
without channels are the same kernel; the compiler gives neighboring threads the elements that are neighbors in
memory. Norms and gates are folded into a factor and a summand a channel at its start. Each program of the backward
pass stores its sums over positions, which the kernel in triton_sums.py adds up to all gradients: no atomics, and the
same result every time.

Triton 2 takes neither tuples nor structs, so that the two kernels name all their arguments.

Memory is meant to be the limit. In half precision an H200 moves an element of the forward pass in the time of some 30
instructions, one of the backward pass in that of 45 to 50; the kernels take 25 and 48. Hence the polynomial and the
powers of 2, which are one instruction each, instead of logarithms, divisions (7) and powers of e (5).
"""

import triton
import triton.language as tl
from triton.language import constexpr

from apa_mmdet.ops import memory_layout

from . import analytic

MAX_BEYOND = constexpr(analytic.MAX_BEYOND)
MAX_INPUT = constexpr(analytic.MAX_INPUT)

LAMBDA_FLOOR = constexpr(memory_layout.LAMBDA_FLOOR)
UNSPECIALIZED = ['inner', 'outer', 'blocks', 'spans', 'tiles']


@triton.jit
def remainder(t):
    """Returns R of log1p(t) = t·(1 + t·R(t)), for 0 <= t <= 1."""
    if t.dtype == tl.float64:
        # With s = t/(2 + t), log1p(t) = 2s + 2s³·(1/3 + s²/5 + s⁴/7 + ...); the omitted terms are below 1e-14.
        # `one` makes each quotient a float64 constant: Triton 2 rounds Python's numbers to float32.
        one = tl.full([1, 1], 1.0, tl.float64)
        s = t / (t + 2.0)
        square = s * s
        series = square * (one / 27) + one / 25
        for k in tl.static_range(11):
            series = series * square + one / (23 - 2 * k)
        r = (s * (1.0 - s) * series - 1.0) * (0.5 - 0.5 * s)
    else:
        # the minimax polynomial: 7e-8 relative in 1 + (1 + t)·R(t), less in log1p
        r = t * -0.004357355378 + 0.02478014083
        r = r * t - 0.06601994684
        r = r * t + 0.1149773593
        r = r * t - 0.1581653946
        r = r * t + 0.1984589361
        r = r * t - 0.2498544785
        r = r * t + 0.3333278715
        r = r * t - 0.4999999652
    return r


@triton.jit
def terms(z, lambda_, inverse, log_lambda, kappa, kappa_2, BOUNDED: constexpr):
    """Returns w > 1, t, R(t), log1p(t) and L, ``BOUNDED`` or possibly infinite. All but the first of NaN are NaN."""
    y = log_lambda - kappa * z
    above = y > 0
    # e^−|y| itself would have the rounding error of log λ
    a = kappa_2 * z
    t = tl.where(above, inverse, lambda_) * tl.math.exp2(tl.where(above, a, -a))
    r = remainder(t)
    small = t * (1.0 + t * r)
    large = tl.maximum(y, 0.0)
    if BOUNDED:
        large = tl.minimum(large, MAX_BEYOND)
    return above, t, r, small, large + small


@triton.jit
def times_log2_e(x):
    """Returns x·log2(e), in two parts because Triton 2 rounds Python's numbers to float32."""
    return x * 1.44269502162933349609375 + x * 1.92596299112661746887e-8


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
    """Returns λ at its floor or above, 1/λ, log2(e)/λ, log λ, κ and κ·log2(e)."""
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
    return lambda_, inverse, times_log2_e(inverse), tl.log(lambda_), kappa, times_log2_e(kappa)


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
    """Computes the value. The pointer of a missing tensor is None. AFFINE: x or the residual has a norm or a gate."""
    COMPUTE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    image, span, channel, channels, positions, first, count = place(
        tl.program_id(0), inner.to(tl.int64) * UNIT, outer, blocks, spans, tiles, CHANNELS_LAST, BLOCK_C, BLOCK_S
    )
    there = channel < channels
    lambda_, inverse, inverse_2, log_lambda, kappa, kappa_2 = curve_terms(
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
        above, t, r, small, log = terms(z, lambda_, inverse, log_lambda, kappa, kappa_2, FORMULA == 'neg_log_apa')
        if FORMULA == 'neg_log_apa':
            value = log * inverse
        else:
            value = tl.math.exp2(log * -inverse_2)
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
    lambda_, inverse, inverse_2, log_lambda, kappa, kappa_2 = curve_terms(
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
        above, t, r, small, log = terms(z, lambda_, inverse, log_lambda, kappa, kappa_2, True)
        z = tl.minimum(tl.maximum(z, -MAX_INPUT), MAX_INPUT)
        v = 1.0 + t
        part = tl.math.exp2(small * -1.4426950408889634)  # 1/v, less a few instructions and digits
        part += part * (1.0 - v * part)  # with all digits, as log − part loses some
        share = t * part
        difference = tl.where(above, log - part, share * (t * (1.0 + v * r)))
        if FORMULA == 'neg_log_apa':
            direct = -grad
        else:
            direct = grad * tl.math.exp2(log * -inverse_2)
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
    to_lambda_ = tl.sum(to_lambda, 1)[:, None] * inverse * inverse
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

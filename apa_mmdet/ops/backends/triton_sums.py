"""The Triton kernel that adds up the sums of the backward pass to the gradients to parameters and gate."""

import triton
import triton.language as tl
from triton.language import constexpr

from .triton_kernels import LAMBDA_FLOOR, fold, inverse_deviation


@triton.jit
def column(
    partials_ptr, row: constexpr, image, first, spans, channels, channel, there, ROWS: constexpr, BLOCK_R: constexpr
):
    """Returns BLOCK_R partial sums a channel, of the spans from ``first`` on; 0 beyond the last."""
    span = first + tl.arange(0, BLOCK_R)[:, None]
    pointer = partials_ptr + ((image * spans + span).to(tl.int64) * ROWS + row) * channels + channel
    return tl.load(pointer, mask=there & (span < spans), other=0.0)


@triton.jit(do_not_specialize=['images', 'spans', 'channels', 'programs'])
def finish_kernel(
    partials_ptr,
    curve_ptr,
    lambda_ptr,
    mean_ptr,
    var_ptr,
    weight_ptr,
    bias_ptr,
    gate_ptr,
    residual_mean_ptr,
    residual_var_ptr,
    to_lambda_ptr,
    to_kappa_ptr,
    to_weight_ptr,
    to_bias_ptr,
    to_gate_ptr,
    to_residual_weight_ptr,
    to_residual_bias_ptr,
    images,
    spans,
    channels,
    programs,
    LAMBDA_PER_CHANNEL: constexpr,
    CURVE_PER_CHANNEL: constexpr,
    AFFINE: constexpr,
    RESIDUAL_AFFINE: constexpr,
    EPS: constexpr,
    RESIDUAL_EPS: constexpr,
    ROWS: constexpr,
    BLOCK_R: constexpr,
    BLOCK_C: constexpr,
    BLOCK: constexpr,
):
    """Adds up the sums of :func:`~.triton_kernels.backward_kernel` to the gradients to parameters and gate.

    A program handles BLOCK_C channels; one more, the last, λ and κ that are one value.
    """
    COMPUTE: tl.constexpr = (partials_ptr if curve_ptr is None else curve_ptr).dtype.element_ty
    program = tl.program_id(0)
    if curve_ptr is not None:  # noqa: SIM102  (known to the compiler, unlike the program)
        if program == tl.num_programs(0) - 1:
            to_lambda = tl.zeros([BLOCK], COMPUTE)
            to_kappa = tl.zeros([BLOCK], COMPUTE)
            for start in range(0, programs, BLOCK):
                index = start + tl.arange(0, BLOCK)
                to_lambda += tl.load(curve_ptr + 2 * index, mask=index < programs, other=0.0)
                to_kappa += tl.load(curve_ptr + 2 * index + 1, mask=index < programs, other=0.0)
            given = tl.load(lambda_ptr).to(COMPUTE)
            if to_lambda_ptr is not None:
                tl.store(to_lambda_ptr, tl.where(given >= LAMBDA_FLOOR, tl.sum(to_lambda), 0.0))
            if to_kappa_ptr is not None:
                tl.store(to_kappa_ptr, tl.sum(to_kappa))
    if partials_ptr is not None:
        channel = program.to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
        there = channel < channels  # of no channel in the program for λ and κ
        FIRST: tl.constexpr = 2 if CURVE_PER_CHANNEL else 0
        to_lambda = tl.zeros([BLOCK_R, BLOCK_C], COMPUTE)
        to_kappa = tl.zeros([BLOCK_R, BLOCK_C], COMPUTE)
        times_x = tl.zeros([1, BLOCK_C], COMPUTE)
        plain = tl.zeros([1, BLOCK_C], COMPUTE)
        residual_times_x = tl.zeros([BLOCK_R, BLOCK_C], COMPUTE)
        residual_plain = tl.zeros([1, BLOCK_C], COMPUTE)
        scale, shift = fold(mean_ptr, var_ptr, weight_ptr, bias_ptr, channel, there, EPS, COMPUTE)
        for image in range(images):
            of_image_x = tl.zeros([BLOCK_R, BLOCK_C], COMPUTE)
            of_image = tl.zeros([BLOCK_R, BLOCK_C], COMPUTE)
            for first in range(0, spans, BLOCK_R):
                if CURVE_PER_CHANNEL:
                    to_lambda += column(partials_ptr, 0, image, first, spans, channels, channel, there, ROWS, BLOCK_R)
                    to_kappa += column(partials_ptr, 1, image, first, spans, channels, channel, there, ROWS, BLOCK_R)
                if AFFINE:
                    of_image_x += column(
                        partials_ptr, FIRST, image, first, spans, channels, channel, there, ROWS, BLOCK_R
                    )
                    of_image += column(
                        partials_ptr, FIRST + 1, image, first, spans, channels, channel, there, ROWS, BLOCK_R
                    )
                if RESIDUAL_AFFINE:
                    residual_times_x += column(
                        partials_ptr, FIRST + 2, image, first, spans, channels, channel, there, ROWS, BLOCK_R
                    )
            sum_x = tl.sum(of_image_x, 0)[None, :]
            sum_plain = tl.sum(of_image, 0)[None, :]
            residual_plain += sum_plain
            if gate_ptr is not None:
                at = image * channels + channel
                if to_gate_ptr is not None:
                    tl.store(to_gate_ptr + at, sum_x * scale + sum_plain * shift, mask=there)
                gate = tl.load(gate_ptr + at, mask=there, other=0.0).to(COMPUTE)
                sum_x *= gate
                sum_plain *= gate
            times_x += sum_x
            plain += sum_plain
        if CURVE_PER_CHANNEL:
            if LAMBDA_PER_CHANNEL:
                given = tl.load(lambda_ptr + channel, mask=there, other=1.0).to(COMPUTE)
            else:
                given = tl.load(lambda_ptr).to(COMPUTE)
            if to_lambda_ptr is not None:
                to_lambda = tl.where(given >= LAMBDA_FLOOR, tl.sum(to_lambda, 0)[None, :], 0.0)
                tl.store(to_lambda_ptr + channel, to_lambda, mask=there)
            if to_kappa_ptr is not None:
                tl.store(to_kappa_ptr + channel, tl.sum(to_kappa, 0)[None, :], mask=there)
        if to_weight_ptr is not None:
            to_weight = centered(times_x, plain, mean_ptr, var_ptr, channel, there, EPS, COMPUTE)
            tl.store(to_weight_ptr + channel, to_weight, mask=there)
        if to_bias_ptr is not None:
            tl.store(to_bias_ptr + channel, plain, mask=there)
        if to_residual_weight_ptr is not None:
            residual_sum = tl.sum(residual_times_x, 0)[None, :]
            to_weight = centered(
                residual_sum, residual_plain, residual_mean_ptr, residual_var_ptr, channel, there, RESIDUAL_EPS, COMPUTE
            )
            tl.store(to_residual_weight_ptr + channel, to_weight, mask=there)
        if to_residual_bias_ptr is not None:
            tl.store(to_residual_bias_ptr + channel, residual_plain, mask=there)


@triton.jit
def centered(times_x, plain, mean_ptr, var_ptr, channel, there, EPS: constexpr, COMPUTE: constexpr):
    """Returns the gradient to a norm's weight from the sums of the gradient times its input, and of the gradient."""
    if mean_ptr is not None:
        times_x -= tl.load(mean_ptr + channel, mask=there, other=0.0).to(COMPUTE) * plain
    return times_x * inverse_deviation(var_ptr, channel, there, EPS, COMPUTE)

"""Squeeze and excitation with an APA gate in one operator, on a CPU."""

import torch
from torch import Tensor

from . import dispatch
from .memory_layout import NO_NORM, Norm, is_compiling


def squeeze_excite(
    x: Tensor,
    norm: Norm | None,
    layer_norm: Norm | None,
    fc1: Tensor,
    fc2: Tensor,
    lambda_: Tensor,
    kappa: Tensor,
    dropout: float,
) -> Tensor | None:
    """Computes ``APA(dropout(fc2·relu(fc1·layer_norm(norm(mean(x))))); λ, κ)``, the gates of squeeze and excitation.

    The mean of a norm is the norm of the mean, so that the norm is never applied to x itself.

    Args:
        x: (N, C, H, W), float32 on a CPU.
        norm: of the C channels, as :class:`~apa_mmdet.ops.Norm`; None for none.
        layer_norm: ``weight``, ``bias`` and ``eps`` of a layer norm over the C means; None for none.
        fc1, fc2: weights of the linear maps, (width, C) and (C, width).
        lambda_, kappa: parameters of the gate, one value or one per channel.
        dropout: probability that an excitation is dropped, below 1; 0 outside of training.

    Returns:
        The gates, (N, C); None where this operator does not serve: other dtypes, devices and memory orders, a compiler
        or a trace, or a machine where ``cpu_extension`` has not been built.
    """
    if is_compiling() or torch._C._get_tracing_state() is not None:
        return None
    extension = dispatch.extension()
    if extension is None:
        return None
    norm, layer = norm or NO_NORM, layer_norm or NO_NORM
    return extension.gate(
        x,
        *norm[:4],
        layer.weight,
        layer.bias,
        fc1,
        fc2,
        lambda_,
        kappa,
        norm.eps,
        layer.eps,
        layer_norm is not None,
        dropout,
    )

"""Adaptive Parametric Activation and AGLU.

Letters, here and in the backends: z is the input, λ (``lambda_``) and κ (``kappa``) are the two parameters of
Adaptive Parametric Activation (Alexandridis et al., ECCV 2024, arXiv:2407.08567).

:func:`apa` and :func:`aglu` also compute what precedes an activation in a residual network in the same pass over
memory: norm(z)·gate + residual_norm(residual). Only the arguments are kept for backward.
"""

from torch import Tensor

from . import dispatch
from .memory_layout import NO_NORM, Norm


def apa(
    z: Tensor,
    lambda_: Tensor,
    kappa: Tensor,
    norm: Norm | None = None,
    gate: Tensor | None = None,
    residual: Tensor | None = None,
    residual_norm: Norm | None = None,
    recompute: bool = False,
) -> Tensor:
    """Computes Adaptive Parametric Activation, ``(λ·exp(−κz) + 1)^(−1/λ)``, a gate with values in [0, 1].

    λ = 1 is the sigmoid of κz; λ → 0 the Gumbel link ``exp(−exp(−κz))``; κ → ∞ the step at 0.

    Args:
        z: any shape, float16, bfloat16, float32 or float64. Half precisions are computed in float32.
        lambda_: one value, or one per channel (dimension 1 of ``z``). Values below 1e-4 are raised to it and have
            no gradient.
        kappa: as ``lambda_``; any sign.
        norm: applied to ``z`` of shape (N, C, …) before the activation, e.g. a batch norm in eval mode.
        gate: (N, C), multiplies what ``norm`` gives, as channel attention does.
        residual: of the shape of ``z``; added before the activation.
        residual_norm: applied to ``residual`` before.
        recompute: attach a recomputation to the result, for :func:`~apa_mmdet.ops.call_with_recomputation`.

    Returns:
        A tensor of the shape and dtype of ``z``.

    Raises:
        ValueError: if the shape of a parameter does not fit, it is on another device, or a ``residual_norm`` is given
            without a residual.
        TypeError: if the dtype of ``z`` is not a floating point one.

    Example:
        >>> import torch
        >>> one = torch.ones(1)
        >>> apa(torch.tensor([0., 2.]), one, one)      # the sigmoid
        tensor([0.5000, 0.8808])
    """
    return _call('apa', z, lambda_, kappa, norm, gate, residual, residual_norm, recompute)


def aglu(
    z: Tensor,
    lambda_: Tensor,
    kappa: Tensor,
    norm: Norm | None = None,
    gate: Tensor | None = None,
    residual: Tensor | None = None,
    residual_norm: Norm | None = None,
    recompute: bool = False,
) -> Tensor:
    """Computes the Adaptive Generalized Linear Unit, ``z·APA(z; λ, κ)``. Arguments, result and errors as :func:`apa`.

    λ = κ = 1 is SiLU; κ → ∞ is ReLU.

    Example:
        >>> import torch
        >>> one = torch.ones(1)
        >>> aglu(torch.tensor([0., 2.]), one, one)     # SiLU
        tensor([0.0000, 1.7616])
    """
    return _call('aglu', z, lambda_, kappa, norm, gate, residual, residual_norm, recompute)


def neg_log_apa(z: Tensor, lambda_: Tensor, kappa: Tensor) -> Tensor:
    """Computes ``−log APA(z; λ, κ) = log1p(λ·exp(−κz))/λ`` without APA itself. Arguments and errors as :func:`apa`.

    Example:
        >>> import torch
        >>> neg_log_apa(torch.zeros(1), torch.ones(1), torch.ones(1))      # log 2
        tensor([0.6931])
    """
    return _call('neg_log_apa', z, lambda_, kappa)


def _call(
    formula: str,
    z: Tensor,
    lambda_: Tensor,
    kappa: Tensor,
    norm: Norm | None = None,
    gate: Tensor | None = None,
    residual: Tensor | None = None,
    residual_norm: Norm | None = None,
    recompute: bool = False,
) -> Tensor:
    mean, var, weight, bias, eps = norm or NO_NORM
    residual_mean, residual_var, residual_weight, residual_bias, residual_eps = residual_norm or NO_NORM
    arguments = (
        z,
        lambda_,
        kappa,
        mean,
        var,
        weight,
        bias,
        gate,
        residual,
        residual_mean,
        residual_var,
        residual_weight,
        residual_bias,
        eps,
        residual_eps,
    )
    return dispatch.call(formula, arguments, recompute)

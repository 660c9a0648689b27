"""Adaptive Parametric Activation and AGLU.

Letters, here and in the backends: z is the input, λ (``lambda_``) and κ (``kappa``) are the two parameters of
Adaptive Parametric Activation (Alexandridis et al., ECCV 2024, arXiv:2407.08567).

:func:`apa` and :func:`aglu` also compute what precedes an activation in a residual network in the same pass over
memory: z = ``z·scale + shift + residual·residual_scale``. Only the arguments are kept for backward.
"""

from functools import partial

import torch
from torch import Tensor

from .backends import traced
from .dispatch import Parametric
from .memory_layout import Arguments, check_input, compute_dtype, is_compiling
from .recompute import attach_recomputation

LAMBDA_FLOOR = 1e-4  # APA is the Gumbel link to four digits there; below, 1/λ costs the other digits


def apa(
    z: Tensor,
    lambda_: Tensor,
    kappa: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    residual_scale: Tensor | None = None,
    recompute: bool = False,
) -> Tensor:
    """Computes Adaptive Parametric Activation, ``(λ·exp(−κz) + 1)^(−1/λ)``, a gate with values in [0, 1].

    λ = 1 is the sigmoid of κz; λ → 0 the Gumbel link ``exp(−exp(−κz))``; κ → ∞ the step at 0.

    Args:
        z: any shape, float16, bfloat16, float32 or float64. Half precisions are computed in float32.
        lambda_: one value, or one per channel (dimension 1 of ``z``). Values below 1e-4 are raised to it and have
            no gradient.
        kappa: as ``lambda_``; any sign.
        scale, shift: both or neither, of shape (C,) or (N, C) for ``z`` of shape (N, C, …). The activation
            is then that of ``z·scale + shift``, as after a batch norm in eval mode.
        residual: of the shape of ``z``; added before the activation.
        residual_scale: of shape (C,) or (N, C); multiplies ``residual``.
        recompute: attach a recomputation to the result, for :func:`~apa_mmdet.ops.call_with_recomputation`.

    Returns:
        A tensor of the shape and dtype of ``z``.

    Raises:
        ValueError: if the shape of a parameter does not fit, it is on another device, or only one of scale and shift
            is given.
        TypeError: if the dtype of ``z`` is not a floating point one.

    Example:
        >>> one = torch.ones(1)
        >>> apa(torch.tensor([0., 2.]), one, one)      # the sigmoid
        tensor([0.5000, 0.8808])
    """
    return _call('apa', Arguments(z, lambda_, kappa, scale, shift, residual, residual_scale), recompute)


def aglu(
    z: Tensor,
    lambda_: Tensor,
    kappa: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    residual_scale: Tensor | None = None,
    recompute: bool = False,
) -> Tensor:
    """Computes the Adaptive Generalized Linear Unit, ``z·APA(z; λ, κ)``. Arguments, result and errors as :func:`apa`.

    λ = κ = 1 is SiLU; κ → ∞ is ReLU.

    Example:
        >>> one = torch.ones(1)
        >>> aglu(torch.tensor([0., 2.]), one, one)     # SiLU
        tensor([0.0000, 1.7616])
    """
    return _call('aglu', Arguments(z, lambda_, kappa, scale, shift, residual, residual_scale), recompute)


def neg_log_apa(z: Tensor, lambda_: Tensor, kappa: Tensor) -> Tensor:
    """Computes ``−log APA(z; λ, κ) = log1p(λ·exp(−κz))/λ`` without APA itself. Arguments and errors as :func:`apa`.

    Example:
        >>> neg_log_apa(torch.zeros(1), torch.ones(1), torch.ones(1))      # log 2
        tensor([0.6931])
    """
    return _call('neg_log_apa', Arguments(z, lambda_, kappa))


def _call(formula: str, given: Arguments, recompute: bool = False) -> Tensor:
    z, lambda_, kappa, scale, shift, residual, residual_scale = given
    check_input(
        z, lambda_=lambda_, kappa=kappa, scale=scale, shift=shift, residual=residual, residual_scale=residual_scale
    )
    if (scale is None) != (shift is None):
        raise ValueError('scale and shift go together: give both or neither')
    if residual_scale is not None and residual is None:
        raise ValueError('residual_scale is given without a residual')
    if residual is not None and residual.shape != z.shape:
        raise ValueError(f'residual has shape {tuple(residual.shape)}, but the input has {tuple(z.shape)}')
    args = Arguments(
        z,
        _activation_parameter('lambda_', lambda_.clamp(min=LAMBDA_FLOOR), z),
        _activation_parameter('kappa', kappa, z),
        _per_plane('scale', scale, z),
        _per_plane('shift', shift, z),
        residual,
        _per_plane('residual_scale', residual_scale, z),
    )
    if torch.jit.is_tracing() or torch.onnx.is_in_onnx_export():  # other programs have no operator of this package
        return traced.forward(formula, args)
    if recompute and not is_compiling():
        result = Parametric.apply(formula, *args)
        return attach_recomputation(result, partial(torch.ops.apa_mmdet.parametric, formula), *args)
    return torch.ops.apa_mmdet.parametric(formula, *args)


def _activation_parameter(name: str, parameter: Tensor, z: Tensor) -> Tensor:
    parameter = parameter.to(compute_dtype(z.dtype))
    if parameter.numel() == 1:
        return parameter.reshape(())
    channels = z.shape[1] if z.dim() > 1 else 1
    if parameter.shape != (channels,):
        raise ValueError(
            f'{name} holds {tuple(parameter.shape)} values, but an input of shape {tuple(z.shape)} '
            f'has {channels} channels: give one value, or one per channel (dimension 1)'
        )
    return parameter


def _per_plane(name: str, parameter: Tensor | None, z: Tensor) -> Tensor | None:
    if parameter is None:
        return None
    if z.dim() < 2:
        raise ValueError(f'{name} is given, but an input of shape {tuple(z.shape)} has no channels: (N, C, …) has')
    if tuple(parameter.shape) not in ((z.shape[1],), (1, z.shape[1]), tuple(z.shape[:2])):
        raise ValueError(
            f'{name} has shape {tuple(parameter.shape)}; an input of shape {tuple(z.shape)} takes one '
            'value per channel, (C,), or one per image and channel, (N, C)'
        )
    parameter = parameter.to(compute_dtype(z.dtype))
    return parameter[None] if parameter.dim() == 1 else parameter

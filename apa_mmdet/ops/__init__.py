"""The activation functions on tensors. Imports torch alone, so it can be used without MMDetection.

Letters, here and in the backends: z input, λ (``lambda_``) and κ (``kappa``) the two parameters of
Adaptive Parametric Activation (Alexandridis et al., ECCV 2024, arXiv:2407.08567).
"""
import torch
from torch import Tensor

from . import analytic

LAMBDA_FLOOR = 1e-4  # below it APA is the Gumbel link to four digits, and 1/λ costs the rest

__all__ = ['LAMBDA_FLOOR', 'aglu', 'apa', 'neg_log_apa']


def apa(z: Tensor, lambda_: Tensor, kappa: Tensor) -> Tensor:
    """Adaptive Parametric Activation, ``(λ·exp(−κz) + 1)^(−1/λ)``, a gate with values in [0, 1].

    λ = 1 is the sigmoid of κz; λ → 0 the Gumbel link ``exp(−exp(−κz))``; κ → ∞ the step at 0.

    Args:
        z: any shape, float16, bfloat16, float32 or float64. Half precisions are computed in float32.
        lambda_: one value, or one per channel (dimension 1 of ``z``). Raised to 1e-4 where it is
            below; its gradient is zero there.
        kappa: as ``lambda_``; any sign.

    Returns:
        A tensor of the shape and dtype of ``z``.

    Raises:
        ValueError: if λ or κ has neither one value nor one per channel of ``z``.

    Example:
        >>> one = torch.ones(1)
        >>> apa(torch.tensor([0., 2.]), one, one)      # the sigmoid
        tensor([0.5000, 0.8808])
    """
    return analytic.Parametric.apply('apa', z, *_parameters(z, lambda_, kappa))


def aglu(z: Tensor, lambda_: Tensor, kappa: Tensor) -> Tensor:
    """Adaptive generalised linear unit, ``z·APA(z; λ, κ)``. Arguments, result and errors as :func:`apa`.

    λ = κ = 1 is SiLU; κ → ∞ is ReLU.

    Example:
        >>> one = torch.ones(1)
        >>> aglu(torch.tensor([0., 2.]), one, one)     # SiLU
        tensor([0.0000, 1.7616])
    """
    return analytic.Parametric.apply('aglu', z, *_parameters(z, lambda_, kappa))


def neg_log_apa(z: Tensor, lambda_: Tensor, kappa: Tensor) -> Tensor:
    """``−log APA(z; λ, κ) = log1p(λ·exp(−κz))/λ``, without forming APA. Arguments and errors as :func:`apa`.

    Example:
        >>> neg_log_apa(torch.zeros(1), torch.ones(1), torch.ones(1))      # log 2
        tensor([0.6931])
    """
    return analytic.Parametric.apply('neg_log_apa', z, *_parameters(z, lambda_, kappa))


def _parameters(z: Tensor, lambda_: Tensor, kappa: Tensor):
    """λ (floored) and κ, shaped to broadcast against ``z``."""
    return _along_channels('lambda_', lambda_.clamp(min=LAMBDA_FLOOR), z), _along_channels('kappa', kappa, z)


def _along_channels(name: str, parameter: Tensor, z: Tensor) -> Tensor:
    if parameter.numel() == 1:
        return parameter.reshape(())
    channels = z.shape[1] if z.dim() > 1 else 1
    if parameter.shape != (channels, ):
        raise ValueError(f'{name} holds {tuple(parameter.shape)} values, but an input of shape {tuple(z.shape)} '
                         f'has {channels} channels: give one value, or one per channel (dimension 1)')
    return parameter.reshape(channels, *[1] * (z.dim() - 2))

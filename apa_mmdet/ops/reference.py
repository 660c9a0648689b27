"""The formulas through autograd, as a reader would write them: the oracle of the tests.

Exact in float64 for moderate arguments; in float32 ∂/∂λ cancels for small λ·exp(−κz) and the exponential
overflows below κz = −88, which is what :mod:`~apa_mmdet.ops.backends.analytic` mends.
"""

import torch
from torch import Tensor


def apa(z: Tensor, lambda_: Tensor, kappa: Tensor) -> Tensor:
    """``(λ·exp(−κz) + 1)^(−1/λ)``, equation 3 of arXiv:2407.08567."""
    return (lambda_ * torch.exp(-kappa * z) + 1) ** (-1 / lambda_)


def aglu(z: Tensor, lambda_: Tensor, kappa: Tensor) -> Tensor:
    """``z·APA(z; λ, κ)``, equation 6 of arXiv:2407.08567."""
    return z * apa(z, lambda_, kappa)


def neg_log_apa(z: Tensor, lambda_: Tensor, kappa: Tensor) -> Tensor:
    """``log(1 + λ·exp(−κz))/λ``."""
    return torch.log1p(lambda_ * torch.exp(-kappa * z)) / lambda_

"""The formulas as published, differentiated by autograd: the reference of the tests.

Exact in float64 for moderate arguments. In float32 ∂/∂λ cancels for small λ·exp(−κz) and the exponential overflows
below κz = −88; :mod:`~apa_mmdet.ops.backends.analytic` has neither defect.
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

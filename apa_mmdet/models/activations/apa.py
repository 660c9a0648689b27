from mmengine.registry import MODELS

from apa_mmdet import ops

from .base import APAActivation


@MODELS.register_module()
class APA(APAActivation):
    r"""Adaptive Parametric Activation: the gate of an attention layer, with values in [0, 1].

    .. math:: \mathrm{APA}(z) = (\lambda e^{-\kappa z} + 1)^{-1/\lambda}

    λ = 1 is the sigmoid of κz, λ → 0 the Gumbel link, κ → ∞ the step. Source: Alexandridis et al.,
    *Adaptive Parametric Activation*, ECCV 2024, arXiv:2407.08567, section 3.1. As a gate λ starts in
    U(0, 1) and κ in U(−1, 0). Arguments as :class:`~apa_mmdet.models.activations.base.APAActivation`;
    shapes and dtypes as :func:`apa_mmdet.ops.apa`.

    Example:
        >>> import torch
        >>> APA(lambda_init=(1, 1), kappa_init=(1, 1))(torch.tensor([2.])).item()  # sigmoid(2)
        0.8807...
    """

    function = staticmethod(ops.apa)

    def __init__(
        self,
        num_features: int | None = 1,
        lambda_init: tuple[float, float] = (0.0, 1.0),
        kappa_init: tuple[float, float] = (-1.0, 0.0),
        inplace: bool = False,
    ) -> None:
        super().__init__(num_features, lambda_init, kappa_init, inplace)

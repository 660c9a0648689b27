from mmengine.registry import MODELS

from apa_mmdet import ops

from .apa import APAActivation


@MODELS.register_module()
class AGLU(APAActivation):
    r"""Adaptive Generalized Linear Unit: the activation of a layer.

    .. math:: \mathrm{AGLU}(z) = z \cdot (\lambda e^{-\kappa z} + 1)^{-1/\lambda}

    λ = κ = 1 is SiLU, κ → ∞ ReLU, λ → 0 a Gumbel-gated unit. Source: Alexandridis et al., *Adaptive
    Parametric Activation*, ECCV 2024, arXiv:2407.08567, section 3.3. λ starts in U(0, 1), κ in U(1, 1.3).
    Arguments as :class:`~apa_mmdet.models.activations.APAActivation`; shapes and dtypes as
    :func:`apa_mmdet.ops.aglu`.

    Example:
        >>> import torch
        >>> AGLU(lambda_init=(1, 1), kappa_init=(1, 1))(torch.tensor([2.])).item()  # 2·sigmoid(2)
        1.7615...
    """

    function = staticmethod(ops.aglu)

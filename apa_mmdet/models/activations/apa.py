import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from apa_mmdet import ops
from apa_mmdet.ops import LAMBDA_FLOOR

from .base import Healthy, LearnableActivation, Symbol

LAMBDA = Symbol(
    'λ',
    (1e-4, 0.25, 0.5, 1, 2),
    1,
    # only weight decay could move it; the activation stays the Gumbel link
    Healthy(low=LAMBDA_FLOOR, otherwise=f'λ is at its floor of {LAMBDA_FLOOR:g}, where it has no gradient'),
)
# above, AGLU is ReLU to 0.7/κ, and the slope of APA at 0, about κ/4, makes gradients spiky; 30 is three times the
# initial value of the configs that imitate ReLU
KAPPA = Symbol('κ', (-1, 0.5, 1, 2, 5), 1, Healthy(-30.0, 30.0))


class APAActivation(LearnableActivation):
    """An activation with parameters λ and κ, drawn uniformly: the base of :class:`APA` and ``AGLU``.

    Args:
        num_features: 1 for scalars, the channel count (dimension 1 of the input) for one pair per channel, None for the
            channel count of the slot (see :func:`~apa_mmdet.models.activations.build_activation`).
        lambda_init: lowest and highest value that λ is drawn from; the highest at least 1e-4.
        kappa_init: the same for κ; any sign.
        inplace: as :class:`LearnableActivation`.

    Raises:
        ValueError: if a range is reversed, that of λ is below its floor of 1e-4, or ``num_features`` < 1.
    """

    symbols = dict(lambda_=LAMBDA, kappa=KAPPA)

    def __init__(
        self,
        num_features: int | None = 1,
        lambda_init: tuple[float, float] = (0.0, 1.0),
        kappa_init: tuple[float, float] = (1.0, 1.3),
        inplace: bool = False,
    ) -> None:
        super().__init__(num_features)
        name = type(self).__name__
        self.lambda_init, self.kappa_init = tuple(lambda_init), tuple(kappa_init)
        for argument in ('lambda_init', 'kappa_init'):
            low, high = bounds = getattr(self, argument)
            if not low <= high:
                raise ValueError(f'{name}: {argument} must be (lowest, highest), got the reversed range {bounds}')
        if self.lambda_init[0] < 0 or self.lambda_init[1] < LAMBDA_FLOOR:
            raise ValueError(f'{name}: lambda_init {self.lambda_init} is below the floor of λ, {LAMBDA_FLOOR:g}')
        self.lambda_ = nn.Parameter(torch.empty(num_features))
        self.kappa = nn.Parameter(torch.empty(num_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws λ and κ again; λ at least at its floor, below which it would have no gradient."""
        low, high = self.lambda_init
        nn.init.uniform_(self.lambda_, max(low, LAMBDA_FLOOR), high)
        nn.init.uniform_(self.kappa, *self.kappa_init)

    def forward(self, z: Tensor, **fused: Tensor | bool | None) -> Tensor:
        """Applies the activation; ``fused`` are further arguments of :func:`apa_mmdet.ops.apa`, by name."""
        return self.function(z, self.lambda_, self.kappa, **fused)

    forward.fusible = True  # layers/norm_act.py passes arguments after z

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, lambda_init={self.lambda_init}, kappa_init={self.kappa_init}'


@MODELS.register_module()
class APA(APAActivation):
    r"""Adaptive Parametric Activation: the gate of an attention layer, with values in [0, 1].

    .. math:: \mathrm{APA}(z) = (\lambda e^{-\kappa z} + 1)^{-1/\lambda}

    λ = 1 is the sigmoid of κz, λ → 0 the Gumbel link, κ → ∞ the step. Source: Alexandridis et al.,
    *Adaptive Parametric Activation*, ECCV 2024, arXiv:2407.08567, section 3.1. As a gate λ starts in
    U(0, 1) and κ in U(−1, 0). Arguments as :class:`APAActivation`; shapes and dtypes as :func:`apa_mmdet.ops.apa`.

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

import math

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from apa_mmdet import ops
from apa_mmdet.ops.memory_layout import compute_dtype

from .base import LearnableActivation, Symbol


@MODELS.register_module()
class APALU(LearnableActivation):
    r"""Adaptive piecewise approximated linear unit, with a and b learned for each channel.

    .. math:: \mathrm{APALU}(x) = a (x + x \cdot σ(1.702 x)) \text{ for } x ≥ 0, \quad b (e^x - 1) \text{ for } x < 0

    Source: *APALU: A Trainable, Adaptive Activation Function for Deep Learning Networks*, arXiv:2402.08244. Dtypes and
    limits as :func:`apa_mmdet.ops.apalu`. a and b stay positive under any optimizer: they are the softplus of
    the parameters ``raw_a`` and ``raw_b``. (The steps of an exponential would grow with the value.) a starts at 1/2, so
    that large inputs pass unchanged as in ReLU and SiLU, and b at 3/4 = 1.5·a, so that there is no kink at 0.

    Args:
        num_features, inplace: as :class:`LearnableActivation`.
        a_init, b_init: initial values of a and b.

    Raises:
        ValueError: as :class:`LearnableActivation`, or if an initial value is not positive.

    Example:
        >>> APALU(1)(torch.tensor([1.])).item()      # (1 + σ(1.702))/2
        0.9228...
    """

    function = staticmethod(ops.apalu)
    symbols = dict(a=Symbol('a', (0.25, 0.5, 0.75, 1), 0.5), b=Symbol('b', (0.25, 0.5, 0.75, 1), 0.75))

    def __init__(
        self, num_features: int | None = None, a_init: float = 0.5, b_init: float = 0.75, inplace: bool = False
    ) -> None:
        super().__init__(num_features)
        for name, start in dict(a_init=a_init, b_init=b_init).items():
            if not 0 < start < math.inf:
                raise ValueError(f'APALU: {name} must be positive and finite, got {start}')
        self.a_init, self.b_init = a_init, b_init
        self.raw_a = nn.Parameter(torch.empty(num_features))
        self.raw_b = nn.Parameter(torch.empty(num_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets a and b to their initial values."""
        for raw, start in ((self.raw_a, self.a_init), (self.raw_b, self.b_init)):
            nn.init.constant_(raw, start + math.log(-math.expm1(-start)))  # the inverse of softplus

    @property
    def a(self) -> Tensor:
        return _positive(self.raw_a)

    @property
    def b(self) -> Tensor:
        return _positive(self.raw_b)

    def forward(self, x: Tensor) -> Tensor:
        return ops.apalu(x, self.a, self.b)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, a_init={self.a_init:g}, b_init={self.b_init:g}'


def _positive(raw: Tensor) -> Tensor:
    """Returns the softplus, in float32 at least and above 0."""
    return F.softplus(raw.to(compute_dtype(raw.dtype))).clamp(min=torch.finfo(torch.float32).tiny)

from collections.abc import Callable

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from apa_mmdet.datasets.calibration_statistics import CalibrationStatistics

from .base import Calibration, Channels
from .errors import CalibrationError

VARIANTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = dict(  # of n_c and N
    rel=lambda n, total: ((total - n) / n).log(),
    raw=lambda n, total: (total / n).log(),
    smooth=lambda n, total: ((total + 1) / (n + 1)).log() + 1,
    normit=lambda n, total: -torch.special.ndtri(n / total),
    gombit=lambda n, total: -(-torch.log1p(-n / total)).log(),
    base2=lambda n, total: (total / n).log2(),
    base10=lambda n, total: (total / n).log10(),
)


@MODELS.register_module()
class IIF(Calibration):
    """Inverse image frequency: x + v(n_c, N) for the logit x of class c, which n_c of N training images show.

    The variants v are ``rel`` log((N − n)/n), ``raw`` log(N/n), ``smooth`` log((N + 1)/(n + 1)) + 1, ``base2``
    log₂(N/n), ``base10`` log₁₀(N/n), ``normit`` −Φ⁻¹(n/N) with Φ the normal distribution, and ``gombit``
    −log(−log(1 − n/N)). Background stays as it is. Source: Alexandridis et al., *Inverse Image Frequency for
    Long-tailed Image Recognition*, arXiv:2209.04861. n is at least 1 and at most N − ½, so that each is finite.

    Args:
        variant: one of :data:`VARIANTS`.
        stats, classes: as of :class:`Calibration`.

    Raises:
        CalibrationError: ``unknown-variant``; see also :class:`Calibration`.

    Example:
        >>> IIF(dict(image_count=[90, 10])).prior      # log(10/90) and log(90/10)
        tensor([-2.1972,  2.1972])
    """

    def __init__(self, stats: str | dict, variant: str = 'rel', classes: tuple[str, ...] | None = None) -> None:
        if not isinstance(variant, str) or variant not in VARIANTS:
            raise CalibrationError.of('unknown-variant', given=repr(variant), known=', '.join(VARIANTS))
        self.variant = variant
        super().__init__(stats, classes)

    def shifts(self, statistics: CalibrationStatistics) -> dict[str, Tensor]:
        total = torch.tensor(float(statistics.n_images), dtype=torch.float64)
        counts = torch.tensor(statistics.image_count, dtype=torch.float64).clamp(min=1)
        return dict(prior=VARIANTS[self.variant](counts.minimum(total - 0.5), total))

    def forward(self, logits: Tensor, link: nn.Module | None, channels: Channels) -> Tensor:
        return logits + channels(self.prior, neutral=0.0)

    def extra_repr(self) -> str:
        return f'variant={self.variant}, {super().extra_repr()}'

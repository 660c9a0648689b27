from numbers import Real

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from apa_mmdet.datasets.calibration_statistics import CalibrationStatistics

from .base import Calibration, Channels
from .errors import CalibrationError


@MODELS.register_module()
class FRACAL(Calibration):
    """Calibration by the frequency of a class and by how its objects spread over the images.

    With f_c the fraction of the training images that show class c, Φ_c the fractal dimension of the centers of its
    boxes, from 1 (along a line) to 2 (all over), C classes, and w_c = −log₁₀ f_c − log₁₀ C:

    - softmax: p = softmax(x + w) / Φ^ℓ, normalized again; w = 0 and Φ = 1 for background. That is
      softmax(x + w − ℓ·log Φ), so a number is added to each logit;
    - links a of each class (sigmoid, Gumbel, APA): p = a(x)·a(x + δ) with δ_c = w_c − log₁₀ φ_c − log₁₀ C and
      φ_c = Φ_c^ℓ / ΣΦ^ℓ. The logit of that product replaces x.

    So scores of rare classes rise, and of classes that are found everywhere fall. Source: Alexandridis et al.,
    *Fractal Calibration for Long-tailed Object Detection*, CVPR 2025, arXiv:2410.11774. A class that no training image
    shows counts as one that a single image shows.

    Args:
        exponent: ℓ, 0 or more; at 0 only the frequencies count.
        stats, classes: as of :class:`Calibration`.

    Raises:
        CalibrationError: ``invalid-exponent``; ``no-fractal-dimension`` if ``stats`` has none and ℓ > 0; see also
            :class:`Calibration`.

    Example:
        >>> stats = dict(image_count=[90, 10], n_images=100, fractal_dimension=[1.8, 1.2])
        >>> FRACAL(stats).prior      # (w − 2 log Φ): (0.0458, 1) − 0.3010 − (1.1756, 0.3646)
        tensor([-1.4308,  0.3343])
    """

    def __init__(self, stats: str | dict, exponent: float = 2.0, classes: tuple[str, ...] | None = None) -> None:
        if not isinstance(exponent, Real) or isinstance(exponent, bool) or not 0 <= exponent < float('inf'):
            raise CalibrationError.of('invalid-exponent', given=repr(exponent))
        self.exponent = exponent
        super().__init__(stats, classes)

    def shifts(self, statistics: CalibrationStatistics) -> dict[str, Tensor]:
        dimension = statistics.fractal_dimension
        if self.exponent and dimension is None:
            raise CalibrationError.of('no-fractal-dimension', path=statistics.origin)
        counts = torch.tensor(statistics.image_count, dtype=torch.float64)
        log_classes = torch.tensor(float(len(counts))).double().log10()
        weight = -(counts.clamp(min=1) / statistics.n_images).log10() - log_classes
        spread = torch.ones_like(counts) if dimension is None else torch.tensor(dimension, dtype=torch.float64)
        share = spread.pow(self.exponent) / spread.pow(self.exponent).sum()
        return dict(prior=weight - self.exponent * spread.log(), shift=weight - share.log10() - log_classes)

    def forward(self, logits: Tensor, link: nn.Module | None, channels: Channels) -> Tensor:
        if link is None:
            return logits + channels(self.prior, neutral=0.0)
        return link.product(logits, channels(self.shift, neutral=float('inf')))

    def extra_repr(self) -> str:
        return f'exponent={self.exponent}, {super().extra_repr()}'

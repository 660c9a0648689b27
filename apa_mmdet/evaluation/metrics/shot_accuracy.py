from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS

from apa_mmdet.datasets.annotations.class_counts import SHOTS, CountsSource, load_class_counts, shots_of


@METRICS.register_module()
class ShotAccuracy(BaseMetric):
    """Top-k accuracy in percent, and top-1 as the mean over classes of many, medium and few training images.

    ``top1_many`` is the mean over the classes of more than 100 training images of the share of their images that are
    classified right, ``top1_medium`` over those of 20 to 100, ``top1_few`` over those of fewer; NaN where no image of
    such a class is evaluated. Of each image the labels of the k highest scores are kept; MMPretrain's ``Accuracy``
    keeps all scores, 0.8 GB of 24,426 images with 8,142 classes.

    Args:
        class_counts: training images of each class, e.g. the path of the training list: what
            :func:`~apa_mmdet.datasets.annotations.class_counts.load_class_counts` takes; None for top-k only.
        topk: the k.
        collect_device, prefix: as of MMEngine's BaseMetric; the prefix is ``accuracy``.

    Raises:
        ValueError: if ``topk`` is not of positive numbers, or more than there are classes.
        FileNotFoundError, ValidationError, BadClassCounts: at evaluation, if the counts cannot be read.
    """

    default_prefix = 'accuracy'

    def __init__(
        self,
        class_counts: CountsSource | None = None,
        topk: int | Sequence[int] = (1, 5),
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.class_counts = class_counts
        self.topk = (topk,) if isinstance(topk, int) else tuple(topk)
        if not self.topk or min(self.topk) < 1:
            raise ValueError(f'ShotAccuracy: topk must be numbers of 1 or more, got {topk}')

    @staticmethod
    def keys(topk: int | Sequence[int] = (1, 5), class_counts: Any = None, **_: Any) -> list[str]:
        """The names of what a metric with these arguments gives, without its prefix."""
        found = [f'top{k}' for k in ((topk,) if isinstance(topk, int) else topk)]
        return found + ([f'top1_{name}' for name in SHOTS[::-1]] if class_counts is not None else [])

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            scores = sample['pred_score']
            if max(self.topk) > len(scores):
                raise ValueError(f'ShotAccuracy: topk={self.topk}, but there are {len(scores)} classes; lower topk')
            best = scores.topk(max(self.topk)).indices.cpu().numpy()
            self.results.append((len(scores), int(sample['gt_label']), best))

    def compute_metrics(self, results: list) -> dict[str, float]:
        num_classes, labels = results[0][0], np.array([label for _, label, _ in results])
        right = np.stack([best for *_, best in results]) == labels[:, None]
        found = {f'top{k}': 100 * float(right[:, :k].any(1).mean()) for k in self.topk}
        if self.class_counts is not None:
            shots = shots_of(load_class_counts(self.class_counts, num_classes))
            images = np.bincount(labels, minlength=num_classes)
            hits = np.bincount(labels[right[:, 0]], minlength=num_classes)
            for name in SHOTS[::-1]:
                seen = (shots == name) & (images > 0)
                found[f'top1_{name}'] = 100 * float((hits[seen] / images[seen]).mean()) if seen.any() else float('nan')
        return found

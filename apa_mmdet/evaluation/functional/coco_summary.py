"""The twelve statistics of COCO, as mmdet's CocoMetric names them."""

from collections.abc import Sequence

import numpy as np

from .coco_eval import Averages
from .coco_matching import AREAS

PRECISIONS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
MAP_LIMIT = 100  # detections of an image and category that mAP counts, as in COCO
RECALLS_BY_LIMIT = ('AR@100', 'AR@300', 'AR@1000')  # at the first, second and third limit, whatever these are
RECALLS_BY_AREA = ('AR_s@1000', 'AR_m@1000', 'AR_l@1000')
NAMES = (*PRECISIONS, *RECALLS_BY_LIMIT, *RECALLS_BY_AREA)
_BY_AREA = dict(zip('sml', list(AREAS)[1:]))


def available(limits: Sequence[int]) -> list[str]:
    """The names of the statistics that there are with so many limits of detections, in the order of mmdet."""
    return [name for name in NAMES if name not in RECALLS_BY_LIMIT[len(limits) :]]


def limit_of_map(limits: Sequence[int], use_mp_eval: bool) -> int:
    """The number of detections of an image and category that mAP counts; without ``use_mp_eval`` :data:`MAP_LIMIT`."""
    return max(limits) if use_mp_eval else MAP_LIMIT


def summarize(averages: Averages, use_mp_eval: bool) -> dict[str, float]:
    """The statistics by name, unrounded; -1 where there is nothing to average.

    Args:
        averages: of an evaluation.
        use_mp_eval: as mmdet's ``COCOevalMP``, which takes all but the first recalls at the last limit. Otherwise as
            pycocotools, which takes mAP at 100 detections (-1 if this is no limit) and the rest at the third limit.
    """
    limits = averages.limits
    last = limits[-1] if use_mp_eval else limits[2]
    results = {'mAP': _mean(averages, averages.precision, limit_of_map(limits, use_mp_eval))}
    for threshold in (0.5, 0.75):
        results[f'mAP_{threshold * 100:.0f}'] = _mean(averages, averages.precision, last, threshold=threshold)
    for letter, area in _BY_AREA.items():
        results[f'mAP_{letter}'] = _mean(averages, averages.precision, last, area)
    for name, limit in zip(RECALLS_BY_LIMIT, limits):
        results[name] = _mean(averages, averages.recall, limit)
    for name, area in zip(RECALLS_BY_AREA, _BY_AREA.values()):
        results[name] = _mean(averages, averages.recall, last, area)
    return results


def _mean(
    averages: Averages, values: np.ndarray, limit: int, area: str = 'all', threshold: float | None = None
) -> float:
    if limit not in averages.limits:
        return -1.0
    values = values[:, :, list(AREAS).index(area), averages.limits.index(limit)]
    values = values if threshold is None else values[averages.thresholds == threshold]
    values = values[values > -1]
    return float(values.mean()) if values.size else -1.0


def by_category(averages: Averages) -> np.ndarray:
    """mAP, mAP_50, mAP_75, mAP_s, mAP_m and mAP_l of each category at the last limit, (K, 6); NaN without objects."""
    values = np.where(averages.precision > -1, averages.precision, np.nan)[..., -1]  # (T, K, A)
    columns = [_nan_mean(values[:, :, 0])]
    columns += [_nan_mean(values[averages.thresholds == threshold][:, :, 0]) for threshold in (0.5, 0.75)]
    columns += [_nan_mean(values[:, :, list(AREAS).index(area)]) for area in _BY_AREA.values()]
    return np.stack(columns, 1)


def categories_at_map(averages: Averages, use_mp_eval: bool) -> np.ndarray:
    """What mAP is the mean of: the average precision of each category, (K,); NaN without objects."""
    values = averages.precision[:, :, 0, averages.limits.index(limit_of_map(averages.limits, use_mp_eval))]
    return _nan_mean(np.where(values > -1, values, np.nan))


def _nan_mean(values: np.ndarray) -> np.ndarray:
    """Over the first axis; a category has all thresholds or none."""
    return values.mean(0) if len(values) else np.full(values.shape[1], np.nan)

"""Rare, common and frequent classes, by the number of training images that they appear in."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

GROUPS = dict(r='rare', c='common', f='frequent')
LVIS_BOUNDS = (10, 100)


def group_classes(
    images: np.ndarray, bounds: Sequence[float] | None = None, quantiles: Sequence[float] | None = None
) -> np.ndarray:
    """The group of each class, ``'r'``, ``'c'`` or ``'f'``.

    Args:
        images: training images of each class.
        bounds: most images of a rare and of a common class; default: LVIS's.
        quantiles: instead of ``bounds``, the shares of rare classes and of rare or common classes.

    Example:
        >>> group_classes(np.array([10, 11, 100, 101])).tolist()
        ['r', 'c', 'c', 'f']
        >>> group_classes(np.array([1, 2, 3, 4, 5, 6]), quantiles=(1 / 3, 2 / 3)).tolist()
        ['r', 'r', 'c', 'c', 'f', 'f']
    """
    if quantiles is not None:
        bounds = np.quantile(images, quantiles) if len(images) else LVIS_BOUNDS
    return np.array(list(GROUPS))[np.searchsorted(LVIS_BOUNDS if bounds is None else bounds, images)]


def check_options(options: Any) -> None:
    """Check ``frequency_groups`` of a metric.

    Raises:
        ValueError: naming the option.
    """
    if not isinstance(options, dict):
        raise ValueError(f'frequency_groups is {options!r}; it must be a dict with ann_file, and bounds or quantiles')
    unknown = sorted(set(options) - {'ann_file', 'bounds', 'quantiles'})
    if unknown or not isinstance(options.get('ann_file'), str):
        raise ValueError(
            f'frequency_groups has {unknown[0]!r}; its options are ann_file, bounds and quantiles'
            if unknown
            else 'frequency_groups needs ann_file, the annotations of the training'
        )
    given = [key for key in ('bounds', 'quantiles') if options.get(key) is not None]
    if len(given) > 1:
        raise ValueError('frequency_groups has bounds and quantiles; give one of them')
    for key in given:
        if not _is_ascending_pair(options[key], 1 if key == 'quantiles' else math.inf):
            raise ValueError(
                f'frequency_groups.{key} is {options[key]!r}; it must be two ascending '
                + ('numbers of images' if key == 'bounds' else 'shares from 0 to 1')
            )


def _is_ascending_pair(values: Any, most: float) -> bool:
    is_pair = isinstance(values, (list, tuple)) and len(values) == 2 and all(isinstance(v, Real) for v in values)
    return is_pair and 0 <= values[0] <= values[1] <= most

"""Training images of each class: what makes a data set long-tailed, and what its metric and calibration need."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from apa_mmdet.utils.errors import CodedError

from .image_lists import read_image_list
from .reading import read_json
from .records import is_number

SHOTS = np.array(['few', 'medium', 'many'])
SHOT_BOUNDS = 19, 100  # most training images of a class of few and of medium shots

CountsSource = str | os.PathLike | dict | Sequence[int]


class BadClassCounts(CodedError):
    """Raised for counts that cannot be used: code ``invalid-class-counts``. The message names the setting or file."""


def shots_of(counts: np.ndarray) -> np.ndarray:
    """Which classes have many, which few training images, as the field reports them.

    Example:
        >>> shots_of(np.array([19, 20, 100, 101])).tolist()
        ['few', 'medium', 'medium', 'many']
    """
    return SHOTS[np.searchsorted(SHOT_BOUNDS, counts)]


def exponential_counts(largest: int, num_classes: int, ratio: float) -> np.ndarray:
    """Images of class c in a set that is made long-tailed: n_c = ⌊n_max · ρ^(−c/(C−1))⌋, of the order of the labels.

    Args:
        largest: n_max, of class 0.
        num_classes: C.
        ratio: ρ, how many times as many images the first class has as the last.

    Example:
        >>> exponential_counts(500, 100, 100)[[0, 1, 50, 99]].tolist()
        [500, 477, 48, 5]
    """
    exponent = np.arange(num_classes) / max(num_classes - 1, 1)
    return np.floor(largest * (1 / ratio) ** exponent + 1e-9).astype(np.int64)


def load_class_counts(source: CountsSource, num_classes: int) -> np.ndarray:
    """Returns the number of training images of each class, in the order of the labels.

    Args:
        source: path of the training list, lines of ``path label``; or of a JSON list of the numbers; or the numbers; or
            ``dict(largest=500, ratio=100)``, of :func:`exponential_counts`.
        num_classes: classes of the classifier. Labels of a list that have no image count 0.

    Raises:
        FileNotFoundError: if there is no such file.
        ValidationError: if a list is damaged, or has a label outside the classes.
        BadClassCounts: if the numbers are not ``num_classes`` whole numbers of 0 or more, or the dict is not of a whole
            number and a ratio, both of 1 or more.

    Example:
        >>> load_class_counts([3, 1], 2).tolist(), load_class_counts(dict(largest=4, ratio=2), 2).tolist()
        ([3, 1], [4, 2])
    """
    if isinstance(source, dict):
        largest, ratio = _exponential(source)
        return exponential_counts(largest, num_classes, ratio)
    origin = 'class_counts'
    if isinstance(source, (str, os.PathLike)):
        origin = os.fspath(source)
        if Path(source).suffix != '.json':
            return np.bincount(read_image_list(origin, num_classes).labels, minlength=num_classes)
        source = read_json(origin)
    whole = isinstance(source, (list, tuple, np.ndarray)) and all(_is_whole(n) and n >= 0 for n in source)
    if not whole or len(source) != num_classes:
        found = f'{len(source)} of them' if whole else f'{source!r:.60}'
        raise BadClassCounts(
            'invalid-class-counts',
            f'{origin}: has to be {num_classes} numbers of training images, one for each class, not {found}',
        )
    return np.asarray(source, np.int64)


def _exponential(source: dict) -> tuple[int, float]:
    """``largest`` and ``ratio`` of a long-tailed set."""
    largest, ratio = source.get('largest'), source.get('ratio')
    fits = _is_whole(largest) and largest >= 1 and is_number(ratio) and ratio >= 1
    if source.keys() != {'largest', 'ratio'} or not fits:
        raise BadClassCounts(
            'invalid-class-counts',
            'class_counts: has to be dict(largest=…, ratio=…), a whole number of images and a number, both of 1 or '
            f'more, not {source!r:.60}',
        )
    return largest, ratio


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)

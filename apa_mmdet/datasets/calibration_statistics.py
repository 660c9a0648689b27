"""What calibration of scores needs to know of the training data: images and fractal dimension of each class."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from apa_mmdet.utils.findings import Findings, ValidationError

from .annotations.class_frequencies import class_frequencies
from .annotations.class_names import find_classes
from .annotations.image_lists import read_image_list
from .annotations.records import Field, is_count, is_number, valid_records
from .class_statistics import read_class_statistics

DIMENSION = Field('a number from 1 to 2', lambda value: is_number(value) and 1 <= value <= 2)
KEYS = {'image_count', 'n_images', 'fractal_dimension', 'names'}


class CalibrationStatistics(NamedTuple):
    """Of each class, training images that show it and fractal dimension; of all, the number of training images."""

    image_count: list[int]
    n_images: int
    fractal_dimension: list[float] | None = None
    names: list[str] | None = None
    origin: str = 'stats'

    def of(self, classes: Sequence[str] | None) -> 'CalibrationStatistics':
        """Those of ``classes``, by name; all in their order without classes or names.

        Raises:
            ValidationError: if a class is missing.

        Example:
            >>> CalibrationStatistics([7, 2], 9, names=['date', 'fig']).of(['fig']).image_count
            [2]
        """
        if classes is None or self.names is None:
            return self
        chosen = find_classes(classes, self.names, self.origin, 'stats', 'calibration')
        dimension = self.fractal_dimension and [self.fractal_dimension[i] for i in chosen]
        counts, names = [self.image_count[i] for i in chosen], [self.names[i] for i in chosen]
        return self._replace(image_count=counts, fractal_dimension=dimension, names=names)


def load_calibration_statistics(stats: str | os.PathLike | dict) -> CalibrationStatistics:
    """Read the statistics of classes from one of four sources.

    1. An annotation file of COCO, LVIS or V3Det, measured once by :func:`~.class_statistics.read_class_statistics`,
       which caches the result, itself of the second type.
    2. ``{"n_images": n, "categories": [{"name": …, "image_count": …, "fractal_dimension": …}, …]}``, as
       ``configs/_base_/datasets/lvis_v1_class_frequency.json``; ``n_images_annotated`` in place of ``n_images``.
    3. A text file with ``path label`` in each line, as of ImageNet-LT: n images of each label.
    4. ``dict(image_count=[…])`` with ``n_images`` (default: the sum), ``fractal_dimension=[…]`` and ``names=[…]``.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if ``stats`` is neither a path nor such a dict.
        ValidationError: if the content is not what it should be; it names the file, the record and the key.
    """
    if isinstance(stats, dict) and 'image_count' in stats and not stats.keys() - KEYS:
        return _from_lists(**stats)
    if not isinstance(stats, (str, os.PathLike)):
        raise TypeError(stats)
    path = Path(stats).expanduser()
    if not path.is_file():
        raise FileNotFoundError(2, 'No such file', str(path))
    if path.suffix == '.txt':
        return _from_labels(path)
    return read_class_statistics(path, lambda content: _from_categories(content, str(path)))


def _from_lists(
    image_count: Sequence[int],
    n_images: int | None = None,
    fractal_dimension: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
) -> CalibrationStatistics:
    columns = dict(image_count=image_count, fractal_dimension=fractal_dimension, name=names)
    given = {key: list(column) for key, column in columns.items() if column is not None}
    if len({len(column) for column in given.values()}) > 1:
        lengths = ', '.join(f'{len(column)} of {key}' for key, column in given.items())
        raise ValidationError.of('unequal-statistics', path='stats', lengths=lengths)
    categories = [dict(zip(given, row), id=i) for i, row in enumerate(zip(*given.values()))]
    if n_images is None:
        n_images = sum(filter(is_count, image_count)) or 1  # the others are reported below
    return _from_categories(dict(n_images=n_images, categories=categories), 'stats')


def _from_labels(path: Path) -> CalibrationStatistics:
    counts = np.bincount(read_image_list(str(path)).labels)
    return _from_lists(counts.tolist())._replace(origin=str(path))


def _from_categories(content: Any, path: str) -> CalibrationStatistics:
    if isinstance(content, dict) and 'n_images' in content:
        content = dict(content, n_images_annotated=content['n_images'])  # the number that frequencies refer to
    frequencies = class_frequencies(content, path)
    if isinstance(content, list):
        raise ValidationError.of('not-class-statistics', path=path)
    categories = content['categories']
    dimension = None
    if any('fractal_dimension' in c for c in categories):
        valid_records(content, 'categories', Findings(path, strict=True), dict(fractal_dimension=DIMENSION))
        dimension = [float(c['fractal_dimension']) for c in categories]
    counts = [c['image_count'] for c in categories]
    return CalibrationStatistics(counts, content['n_images_annotated'], dimension, frequencies.names, path)

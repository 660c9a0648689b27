"""Counts and measures the classes of annotations; crowds do not count."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from apa_mmdet.datasets.fractal_dimension import fractal_dimension
from apa_mmdet.utils.findings import Findings

from .class_names import find_classes
from .records import Records, class_image_pairs, collect_records


class ClassCounts(NamedTuple):
    """Of each class, in a given order: images that show it, and instances."""

    images: np.ndarray
    instances: np.ndarray


def count_categories(content: dict, path: str) -> ClassCounts:
    """Count the categories of annotations of COCO or LVIS, in the order of the file.

    Args:
        content: of the file.
        path: what errors call it.

    Raises:
        ValidationError: if the content is damaged.
    """
    return _counts(collect_records(content, Findings(path, strict=True)))


def count_classes(content: dict, path: str, classes: Sequence[str], setting: str, owner: str) -> ClassCounts:
    """As :func:`count_categories`, of ``classes``, by name.

    Raises:
        ValidationError: if the content is damaged, or if ``path``, the file of the ``setting`` of ``owner``, lacks a
            class.
    """
    counts = count_categories(content, path)
    names = [category['name'] for category in content['categories']]
    chosen = find_classes(classes, names, path, setting, owner)
    return ClassCounts(*(column[chosen] for column in counts))


def measure_classes(content: dict, path: str) -> dict:
    """Count the images and instances, and measure the fractal dimension, of each category of an annotation file.

    Args:
        content: of the file.
        path: what errors call it.

    Returns:
        ``n_images``, ``n_images_annotated``, those with any annotation, also a crowd, and ``categories``: dicts of
        ``id``, ``name``, ``image_count``, ``instance_count`` and ``fractal_dimension``.

    Raises:
        ValidationError: if the content is damaged.
    """
    records = collect_records(content, Findings(path, strict=True))
    single = records.single
    boxes = records.annotations.boxes[single]
    centers = (boxes[:, :2] + boxes[:, 2:] / 2) / records.sizes[single]
    dimension = fractal_dimension(centers, records.category[single], len(records.categories))
    columns = zip(records.categories, *(c.tolist() for c in (*_counts(records), dimension.round(10))))
    return dict(
        n_images=len(records.images),
        n_images_annotated=int(np.count_nonzero(np.bincount(records.image))),
        categories=[
            dict(id=c['id'], name=c['name'], image_count=i, instance_count=n, fractal_dimension=phi)
            for c, i, n, phi in columns
        ],
    )


def measure_annotations(content: Any, path: str) -> dict | None:
    """As :func:`measure_classes`; None for content that is not of an annotation file."""
    is_annotations = isinstance(content, dict) and not content.keys().isdisjoint(('images', 'annotations'))
    return measure_classes(content, path) if is_annotations else None


def _counts(records: Records) -> ClassCounts:
    category, image, number = records.category[records.single], records.image[records.single], len(records.categories)
    classes, _ = class_image_pairs(category, image, len(records.images))
    return ClassCounts(np.bincount(classes, minlength=number), np.bincount(category, minlength=number))

"""Detections and objects of one category after another, and which of them match."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import pycocotools.mask as mask_utils

from .coco_matching import match, outside_areas
from .detection_rows import IOU_TYPES, DetectionRows
from .prediction_store import as_xywh

BOXES, MASKS = IOU_TYPES


class Objects(Protocol):
    """Annotations: ``objects`` as ``coco_ground_truth.OBJECT``, and the mask of one, given its number and its image."""

    objects: np.ndarray

    def mask(self, number: int, image: int) -> dict: ...


class Category(NamedTuple):
    """Detections, by image and score, and objects, by image, of one category."""

    rows: np.ndarray
    scores: np.ndarray
    rank: np.ndarray  # of a detection in its image
    objects: np.ndarray


class CategoryMatches(NamedTuple):
    """What the average precision of a category is computed from: D detections, T thresholds of the overlap.

    Attributes:
        image: (D,) positions of the images of the detections, which are in the order of their scores.
        right: (T, D) whether a detection is a hit.
        counted: (T, D) whether it counts, as a hit or as a false one.
        objects: positions of the images of the objects that count, one for each object.
    """

    image: np.ndarray
    right: np.ndarray
    counted: np.ndarray
    objects: np.ndarray


def by_category(
    rows: np.ndarray, objects: np.ndarray, iou_type: str, count: int, limit: float, per_category: bool = True
) -> Iterator[Category]:
    """The categories of label 0, 1, …, each with its detections and objects.

    Args:
        rows: detections, as ``detection_rows.ROW``.
        objects: as ``coco_ground_truth.OBJECT``.
        iou_type: 'bbox' or 'segm'.
        count: number of categories.
        limit: number of the best detections of an image and category that are kept.
        per_category: False: all are one category, as for proposals.
    """
    scores, image, label = rows['scores'][:, IOU_TYPES.index(iou_type)], rows['image'], rows['category']
    # of equal scores the lower label is first where all are one category, else the first in the file
    order = np.lexsort((-scores, image, label) if per_category else (label, -scores, image))
    group = (label if per_category else np.zeros_like(label))[order].astype(np.int64) << 32 | image[order]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    order, group, rank = (values[rank < limit] for values in (order, group, rank))
    own = np.lexsort((objects['image'], objects['label']) if per_category else (objects['label'], objects['image']))
    objects = objects[own]
    if not per_category:
        yield Category(rows[order], scores[order], rank, objects)
        return
    labels = np.arange(count + 1)
    ends, object_ends = np.searchsorted(group, labels << 32), np.searchsorted(objects['label'], labels)
    for k in labels[:-1]:
        part = slice(ends[k], ends[k + 1])
        chosen = objects[object_ends[k] : object_ends[k + 1]]
        yield Category(rows[order[part]], scores[order[part]], rank[part], chosen)


class Shapes:
    """Boxes, or masks if there is ``read_mask``, of the detections and objects of a category.

    Attributes:
        areas: of the detections.
    """

    def __init__(
        self,
        annotations: Objects,
        detections: DetectionRows,
        category: Category,
        read_mask: Callable[[int, int, int], bytes] | None,
    ) -> None:
        self._annotations, self._objects, self._masks = annotations, category.objects, None
        if read_mask is None:
            self._boxes = np.array(as_xywh(category.rows['box'])).reshape(-1, 4)
            self.areas = self._boxes[:, 2] * self._boxes[:, 3]
        else:
            columns = (category.rows[name].tolist() for name in ('image', 'file', 'offset', 'length'))
            sizes = detections.mask_sizes
            self._masks = [dict(size=sizes[i], counts=read_mask(*where)) for i, *where in zip(*columns)]
            self.areas = _areas(self._masks)

    def overlaps(self, found: slice, objects: slice) -> np.ndarray:
        """Of the detections and objects of an image, (D, G)."""
        chosen = self._objects[objects]
        crowd = chosen['crowd'].tolist()
        if self._masks is None:
            return mask_utils.iou(self._boxes[found], chosen['box'], crowd)
        places = zip(chosen['number'].tolist(), chosen['image'].tolist())
        return mask_utils.iou(self._masks[found], [self._annotations.mask(*place) for place in places], crowd)


def _areas(masks: list[dict]) -> np.ndarray:
    """In parts: under NumPy 2, ``area`` of pycocotools 2.0.11 takes at most 255 masks at once."""
    parts = [mask_utils.area(masks[start : start + 255]) for start in range(0, len(masks), 255)]
    return np.concatenate([np.zeros(0), *parts])


def match_images(
    category: Category, shapes: Shapes, thresholds: Sequence[float], ignored: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Match a category, image by image, as :func:`match`.

    Args:
        category: its detections and objects.
        shapes: theirs.
        thresholds: of the overlap, (T,).
        ignored: which objects are, in A ranges of area, (A, G).

    Returns:
        Whether a detection is matched, and whether with an ignored object, each (A, T, D).
    """
    objects, image = category.objects, category.rows['image']
    shape = len(ignored), len(thresholds), len(image)
    matched, with_ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    images, starts = np.unique(objects['image'], return_index=True)
    ends = [*starts[1:].tolist(), len(objects)]
    low, high = (np.searchsorted(image, images, side).tolist() for side in ('left', 'right'))
    for start, end, first, last in zip(starts.tolist(), ends, low, high):
        if first < last:
            overlaps = shapes.overlaps(slice(first, last), slice(start, end))
            found = match(overlaps, thresholds, ignored[:, start:end], objects['crowd'][start:end])
            matched[:, :, first:last], with_ignored[:, :, first:last] = found
    return matched, with_ignored


def match_category(
    category: Category, shapes: Shapes, thresholds: Sequence[float], ignored: np.ndarray, unknown: np.ndarray
) -> CategoryMatches:
    """The matches of a category, whatever the area.

    Args:
        category: its detections and objects.
        shapes: theirs.
        thresholds: of the overlap, (T,).
        ignored: objects that do not count, (G,); detections that match them do not count either.
        unknown: detections, (D,), that do not count as false ones, because not all objects there are annotated.
    """
    ignored = ignored | outside_areas(category.objects['area'])[0]
    unknown = unknown | outside_areas(shapes.areas)[0]
    (matched,), (with_ignored,) = match_images(category, shapes, thresholds, ignored[None])
    counted = ~(with_ignored | (~matched & unknown))
    order = np.argsort(-category.scores, kind='stable')
    images = category.rows['image'][order], category.objects['image'][~ignored]
    return CategoryMatches(images[0], (matched & counted)[:, order], counted[:, order], images[1])

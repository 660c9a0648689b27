"""COCO's average precision, a category at a time over the images that have it in objects or detections."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pycocotools.mask as mask_utils
from tqdm import tqdm

from .coco_ground_truth import CocoGroundTruth
from .coco_matching import AREAS, average_over_recall, match, outside_areas
from .detection_rows import IOU_TYPES, DetectionRows
from .prediction_store import as_xywh

BOXES, MASKS = IOU_TYPES


class Averages(NamedTuple):
    """By threshold (T), category (K), range of area (A, see :data:`AREAS`) and limit of detections (M); -1: no object.

    Attributes:
        precision: averaged over recall, (T, K, A, M).
        recall: the highest, (T, K, A, M).
        thresholds: of the overlap, (T,).
        limits: detections of an image and category that count, in ascending order.
    """

    precision: np.ndarray
    recall: np.ndarray
    thresholds: np.ndarray
    limits: list[int]


class _Category(NamedTuple):
    """Detections, by image and score, and objects, by image, of one category."""

    rows: np.ndarray
    scores: np.ndarray
    rank: np.ndarray  # of a detection in its image
    objects: np.ndarray


def evaluate_coco(
    ground_truth: CocoGroundTruth,
    detections: DetectionRows,
    iou_type: str,
    thresholds: Sequence[float],
    limits: Sequence[int],
    by_category: bool = True,
) -> Averages:
    """Average precision and recall, equal to those of pycocotools.

    Args:
        ground_truth: the annotations.
        detections: those of a whole test; their ``category`` is the label.
        iou_type: 'bbox' or 'segm'.
        thresholds: of the overlap.
        limits: numbers of the best detections of an image and category that count.
        by_category: False: categories do not matter, as for proposals; K is 1.
    """
    thresholds, limits = np.asarray(thresholds, float), sorted(limits)
    if iou_type == MASKS:
        detections.report_mask_sizes()
    count = len(ground_truth.categories) if by_category else 1
    shape = len(thresholds), count, len(AREAS), len(limits)
    averages = Averages(-np.ones(shape), -np.ones(shape), thresholds, limits)
    categories = _categories(ground_truth, detections, iou_type, limits[-1], by_category)
    # disable=None: no bar in a log
    bar = tqdm(categories, iou_type, count, unit=' categories', disable=None, delay=1)
    with detections.predictions.open_masks() as read_mask:
        for k, category in enumerate(bar):
            if len(category.objects):
                shapes = _Shapes(ground_truth, detections, category, read_mask if iou_type == MASKS else None)
                _evaluate_category(k, category, shapes, averages)
    return averages


def _categories(
    ground_truth: CocoGroundTruth, detections: DetectionRows, iou_type: str, limit: int, by_category: bool
) -> Iterator[_Category]:
    rows, objects = detections.rows, ground_truth.objects
    scores, image, label = rows['scores'][:, IOU_TYPES.index(iou_type)], rows['image'], rows['category']
    # of equal scores the lower label is first where categories are not told apart, else the first in the file
    order = np.lexsort((-scores, image, label) if by_category else (label, -scores, image))
    group = (label if by_category else np.zeros_like(label))[order].astype(np.int64) << 32 | image[order]
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    order, group, rank = (values[rank < limit] for values in (order, group, rank))
    own = np.lexsort((objects['image'], objects['label']) if by_category else (objects['label'], objects['image']))
    objects = objects[own]
    if not by_category:
        yield _Category(rows[order], scores[order], rank, objects)
        return
    labels = np.arange(len(ground_truth.categories) + 1)
    ends, object_ends = np.searchsorted(group, labels << 32), np.searchsorted(objects['label'], labels)
    for k in labels[:-1]:
        part = slice(ends[k], ends[k + 1])
        chosen = objects[object_ends[k] : object_ends[k + 1]]
        yield _Category(rows[order[part]], scores[order[part]], rank[part], chosen)


class _Shapes:
    """Boxes, or masks if there is ``read_mask``, of the detections and objects of a category."""

    def __init__(
        self,
        ground_truth: CocoGroundTruth,
        detections: DetectionRows,
        category: _Category,
        read_mask: Callable[[int, int, int], bytes] | None,
    ) -> None:
        self._ground_truth, self._objects, self._masks = ground_truth, category.objects, None
        if read_mask is None:
            self._boxes = np.array(as_xywh(category.rows['box'])).reshape(-1, 4)
            self.areas = self._boxes[:, 2] * self._boxes[:, 3]
        else:
            columns = (category.rows[name].tolist() for name in ('image', 'file', 'offset', 'length'))
            sizes = detections.mask_sizes
            self._masks = [dict(size=sizes[i], counts=read_mask(*where)) for i, *where in zip(*columns)]
            self.areas = mask_utils.area(self._masks).astype(float) if self._masks else np.zeros(0)

    def overlaps(self, found: slice, objects: slice) -> np.ndarray:
        """Of the detections and objects of an image, (D, G)."""
        chosen = self._objects[objects]
        crowd = chosen['crowd'].tolist()
        if self._masks is None:
            return mask_utils.iou(self._boxes[found], chosen['box'], crowd)
        places = zip(chosen['number'].tolist(), chosen['image'].tolist())
        return mask_utils.iou(self._masks[found], [self._ground_truth.mask(*place) for place in places], crowd)


def _evaluate_category(k: int, category: _Category, shapes: _Shapes, averages: Averages) -> None:
    """Fill in the averages of category ``k``."""
    objects, image = category.objects, category.rows['image']
    ignored = outside_areas(objects['area']) | objects['crowd']
    shape = len(AREAS), len(averages.thresholds), len(image)
    # what matches nothing is wrong, unless its area is outside
    matched, with_ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    images, starts = np.unique(objects['image'], return_index=True)
    ends = [*starts[1:].tolist(), len(objects)]
    low, high = (np.searchsorted(image, images, side).tolist() for side in ('left', 'right'))
    for start, end, first, last in zip(starts.tolist(), ends, low, high):
        if first < last:
            overlaps = shapes.overlaps(slice(first, last), slice(start, end))
            found = match(overlaps, averages.thresholds, ignored[:, start:end], objects['crowd'][start:end])
            matched[:, :, first:last], with_ignored[:, :, first:last] = found
    outside = outside_areas(shapes.areas)
    order = np.argsort(-category.scores, kind='stable')
    rank = category.rank[order]
    most = rank.max(initial=-1) + 1
    counts = np.count_nonzero(~ignored, axis=1).tolist()
    for a in np.flatnonzero(counts):
        counted = ~(with_ignored[a] | (~matched[a] & outside[a]))[:, order]
        right = matched[a][:, order] & counted
        previous = -1
        for m, limit in enumerate(averages.limits):
            if previous < most:  # otherwise, this limit adds no detection
                kept = slice(None) if limit >= most else rank < limit
                found = average_over_recall(right[:, kept], counted[:, kept], counts[a])
            averages.precision[:, k, a, m], averages.recall[:, k, a, m] = found
            previous = limit

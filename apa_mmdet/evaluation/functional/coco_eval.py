"""COCO's average precision, a category at a time over the images that have it in objects or detections."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from .category_matches import MASKS, Category, CategoryMatches, Shapes, by_category, match_category, match_images
from .coco_ground_truth import CocoGroundTruth
from .coco_matching import AREAS, average_over_recall, outside_areas
from .detection_rows import DetectionRows


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


def evaluate_coco(
    ground_truth: CocoGroundTruth,
    detections: DetectionRows,
    iou_type: str,
    thresholds: Sequence[float],
    limits: Sequence[int],
    per_category: bool = True,
) -> Averages:
    """Average precision and recall, equal to those of pycocotools.

    Args:
        ground_truth: the annotations.
        detections: those of a whole test; their ``category`` is the label.
        iou_type: 'bbox' or 'segm'.
        thresholds: of the overlap.
        limits: numbers of the best detections of an image and category that count.
        per_category: False: categories do not matter, as for proposals; K is 1.
    """
    thresholds, limits = np.asarray(thresholds, float), sorted(limits)
    if iou_type == MASKS:
        detections.report_mask_sizes()
    count = len(ground_truth.categories) if per_category else 1
    shape = len(thresholds), count, len(AREAS), len(limits)
    averages = Averages(-np.ones(shape), -np.ones(shape), thresholds, limits)
    categories = by_category(detections.rows, ground_truth.objects, iou_type, count, limits[-1], per_category)
    # disable=None: no bar in a log
    bar = tqdm(categories, iou_type, count, unit=' categories', disable=None, delay=1)
    with detections.predictions.open_masks() as read_mask:
        for k, category in enumerate(bar):
            if len(category.objects):
                shapes = Shapes(ground_truth, detections, category, read_mask if iou_type == MASKS else None)
                _evaluate_category(k, category, shapes, averages)
    return averages


def match_coco(
    ground_truth: CocoGroundTruth, detections: DetectionRows, iou_type: str, thresholds: Sequence[float], limit: int
) -> Iterator[tuple[int, CategoryMatches]]:
    """The label of each category that has objects, and the matches that its average precision over all areas is from.

    Args:
        ground_truth: the annotations.
        detections: those of a whole test; their ``category`` is the label.
        iou_type: 'bbox' or 'segm'.
        thresholds: of the overlap.
        limit: number of the best detections of an image and category that count.
    """
    categories = by_category(detections.rows, ground_truth.objects, iou_type, len(ground_truth.categories), limit)
    with detections.predictions.open_masks() as read_mask:
        for k, category in enumerate(categories):
            if len(category.objects):
                shapes = Shapes(ground_truth, detections, category, read_mask if iou_type == MASKS else None)
                unknown = np.zeros(len(category.rows), bool)
                yield k, match_category(category, shapes, thresholds, category.objects['crowd'], unknown)


def _evaluate_category(k: int, category: Category, shapes: Shapes, averages: Averages) -> None:
    """Fill in the averages of category ``k``."""
    # what matches nothing is wrong, unless its area is outside
    ignored = outside_areas(category.objects['area']) | category.objects['crowd']
    matched, with_ignored = match_images(category, shapes, averages.thresholds, ignored)
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

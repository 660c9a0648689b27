"""Finds masks that do not belong to their boxes: of another scale, in shares of the image, or with x and y swapped."""

from itertools import chain

import numpy as np
from pycocotools import mask as rle

from apa_mmdet.datasets.annotations.columns import Annotations
from apa_mmdet.datasets.annotations.segmentations import is_polygon, plain
from apa_mmdet.utils.findings import Findings

AT_ONCE = 1_000
ROUNDED = 1  # pixels by which a point may lie outside the box
HARDLY = 0.1  # of the smaller of mask and box; a box around a partly hidden object covers all of its mask
MISREAD_SHARE = 0.1  # of the masks


class StrayMasks:
    """Compares masks with their boxes.

    Two points tell of nearly every mask that it is in its box; the bounds of all take a third of the time of a check.
    Without ``empty``, a mask without a pixel is one that the instance lacks, and belongs to any box. To a box without
    width or height, which another finding names, belongs any mask.
    """

    def __init__(self, annotations: Annotations, empty: bool = True) -> None:
        self._annotations, self._empty, self._total = annotations, empty, 0
        self._positions: list[int] = []
        self._points: list[float] = []  # x and y of two points of each mask
        self._suspects: list[int] = []  # positions of masks of which the bounds tell

    def add_polygons(self, position: int, polygons: list[list[float]]) -> None:
        """Compare the mask of an annotation; each polygon has three points or more."""
        outline = polygons[0]
        middle = len(outline) // 4 * 2
        self._points += outline[0], outline[1], outline[middle], outline[middle + 1]
        self._positions.append(position)
        if len(self._positions) == AT_ONCE:
            self._look_at_points()

    def add(self, position: int) -> None:
        """Compare the mask of an annotation, of any form, but not without an outline."""
        self._total += 1
        self._suspects.append(position)

    def _look_at_points(self) -> None:
        positions, points = np.array(self._positions, int), np.array(self._points)
        left, top, width, height = self._annotations.boxes[positions].T
        inside = np.ones(len(positions), bool)
        for first in (0, 2):
            x, y = points[first::4] - left, points[first + 1 :: 4] - top
            inside &= (x >= -ROUNDED) & (x <= width + ROUNDED) & (y >= -ROUNDED) & (y <= height + ROUNDED)
        self._suspects += positions[~inside].tolist()
        self._total += len(positions)
        self._positions, self._points = [], []

    def report(self, findings: Findings) -> None:
        """Report the masks that hardly overlap their boxes."""
        self._look_at_points()
        annotations, found = self._annotations, self._suspects
        if found:
            bounds = np.array([mask_bounds(annotations.segmentations[i]) for i in found])
            boxes = annotations.boxes[found]
            strays = (_overlap(bounds, boxes) < HARDLY) & (self._empty | bounds.any(1)) & (boxes[:, 2:] > 0).all(1)
            found = np.compress(strays, found).tolist()
        code = 'masks-misread' if len(found) > MISREAD_SHARE * self._total else 'mask-outside-box'
        images = [f'image {image}' for image in annotations.image_ids[found].tolist()]
        findings.report(code, annotations.ids[found].tolist(), self._total, images, share=MISREAD_SHARE)


def mask_bounds(segmentation: object) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a mask, zeros without a pixel; polygons without three points do not count.

    Example:
        >>> mask_bounds([[2, 1, 6, 1, 6, 5], [0, 0]]), mask_bounds(dict(size=[3, 4], counts=[4, 2, 6]))
        ((2, 1, 6, 5), (1.0, 1.0, 2.0, 3.0))
    """
    mask = plain(segmentation)
    if isinstance(mask, dict):
        code = rle.frPyObjects(mask, *mask['size']) if isinstance(mask['counts'], list) else mask
        left, top, width, height = rle.toBbox(code).tolist()
        return left, top, left + width, top + height
    x, y = (list(chain.from_iterable(p[axis::2] for p in mask if is_polygon(p))) for axis in (0, 1))
    return min(x), min(y), max(x), max(y)


def _overlap(bounds: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The area in both, as a share of the smaller one; a line counts as a pixel wide."""
    low, high = bounds[:, :2], bounds[:, 2:]
    box_low, box_side = boxes[:, :2], boxes[:, 2:].clip(0)
    shared = (np.minimum(high, box_low + box_side) - np.maximum(low, box_low) + 1).clip(0)
    return shared.prod(1) / np.minimum((high - low + 1).prod(1), (box_side + 1).prod(1))

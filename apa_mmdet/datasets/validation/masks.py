"""Checks that loaders and metrics can read the masks of an annotation file."""

import math
from itertools import chain
from typing import Any

import numpy as np

from apa_mmdet.datasets.annotations.columns import Annotations
from apa_mmdet.datasets.annotations.segmentations import is_polygon, plain, usual_polygons
from apa_mmdet.structures.rle import is_rle
from apa_mmdet.utils.findings import Findings

from .stray_masks import StrayMasks

MAX_COORDINATE = 1e6  # pixels; pycocotools does not check: NaN, or far more than this, ends the process silently
MAX_OUTLINE = 1e7  # pixels; pycocotools takes 40 bytes and 0.1 µs for each, so at most 0.4 GB and a second
BOX_NUMBERS = 4  # pycocotools takes no polygon first that is so short


def check_masks(
    annotations: Annotations,
    sizes: np.ndarray,
    required: bool,
    evaluated: bool,
    findings: Findings,
    plain_head: str | None = None,
    among: np.ndarray | None = None,
    polygons_only: np.ndarray | None = None,
    strays: StrayMasks | None = None,
) -> np.ndarray:
    """Check the masks of the instances that the loader returns or, if ``evaluated``, that a metric compares.

    A metric skips no mask. ``sizes`` are (N, 2), width and height of each image; ``among`` (N,) says which instances
    are checked; without ``required`` an instance may lack its mask, unless a ``plain_head`` learns from it, which would
    take it for an object without a pixel. ``polygons_only`` (N,) are the instances to learn of which training reads no
    run-length code. ``strays`` compares the masks with their boxes.

    Returns:
        Of which instances (N,) that were checked the mask is anything but a list without a polygon, or a run-length
        code that training does not read.
    """
    optional = None if required else 'empty-mask-target' if plain_head else 'partial-masks'
    chosen = np.arange(len(annotations)) if among is None else np.flatnonzero(among)
    faults: dict[str, list[int]] = {}
    outlined = np.ones(len(annotations), bool)
    masks = annotations.segmentations
    for i in chosen.tolist():
        polygons = usual_polygons(masks[i])
        if polygons:  # nearly all
            if strays:
                strays.add_polygons(i, polygons)
            continue
        mask = plain(masks[i])
        outlined[i] = has_outline(mask)
        fault = mask_fault(mask, *sizes[i].tolist(), evaluated)
        if strays and outlined[i] and fault in (None, 'mask-polygon'):
            strays.add(i)
        if fault is None and polygons_only is not None and polygons_only[i] and isinstance(mask, dict):
            outlined[i], fault = False, 'mask-not-a-polygon'
        if fault:
            faults.setdefault(fault, []).append(i)
    for code, positions in faults.items():
        ids, code = annotations.ids[positions].tolist(), (code == 'missing-mask' and optional) or code
        findings.report(code, ids, len(chosen), head=plain_head)
    return outlined


def mask_fault(mask: Any, width: float, height: float, evaluated: bool) -> str | None:
    """The code of what is wrong with a mask, None if nothing is; 'mask-polygon' does no harm.

    A run-length code without "size" or "counts" is a missing mask.
    """
    if not mask:
        return 'missing-mask'
    if isinstance(mask, dict):
        size, counts = mask.get('size'), mask.get('counts')
        if not size or counts is None:
            return 'missing-mask'
        if not isinstance(size, (list, tuple)) or len(size) != 2 or not isinstance(counts, (list, str, bytes)):
            return 'invalid-mask'
        if list(size) != [height, width] or not all(map(_is_whole, size)):
            return 'mask-size'
        if isinstance(counts, list):
            fills = all(map(_is_whole, counts)) and sum(counts) == width * height
        else:  # COCO's text
            fills = is_rle(counts, width * height)
        return None if fills else 'mask-runs'
    if not isinstance(mask, list) or not all(isinstance(polygon, list) for polygon in mask):
        return 'invalid-mask'
    values = list(chain.from_iterable(mask))
    if not set(map(type, values)) <= {int, float}:
        return 'mask-out-of-range'
    low, high = min(values, default=0), max(values, default=0)
    if not (-MAX_COORDINATE <= low <= high <= MAX_COORDINATE and math.isfinite(sum(values))):  # NaN hides from min, max
        return 'mask-out-of-range'
    if (high - low) * len(values) > MAX_OUTLINE and sum(map(_outline, mask)) > MAX_OUTLINE:
        return 'mask-outline-too-long'
    if evaluated and len(mask[0]) <= BOX_NUMBERS:
        return 'mask-first-polygon'
    return None if all(map(is_polygon, mask)) else 'mask-polygon'


def has_outline(mask: Any) -> bool:
    """Whether it is anything but a list without a polygon."""
    return not isinstance(mask, list) or any(isinstance(polygon, list) and is_polygon(polygon) for polygon in mask)


def _outline(polygon: list) -> float:
    """Its length as pycocotools draws it: a step goes to the next pixel, also diagonally."""
    points = np.array(polygon[: len(polygon) // 2 * 2], float).reshape(-1, 2)
    return np.abs(points - np.roll(points, 1, axis=0)).max(1).sum()


def _is_whole(value: Any) -> bool:
    return type(value) is int and value >= 0

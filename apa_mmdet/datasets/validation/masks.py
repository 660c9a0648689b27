"""Whether the masks of an annotation file are what the loader and the metrics can read."""

import math
from itertools import chain
from typing import Any

import numpy as np

from apa_mmdet.structures.rle import run_lengths

from .findings import ERROR, WARNING, Notes

FAR = 1e6  # pixels; pycocotools does not look: NaN, or far more than this, ends the process without a word
OUTLINE = 1e7  # pixels; pycocotools takes 40 bytes and 0.1 µs for each, so at most 0.4 GB and a second
BOX = 4  # numbers; pycocotools takes no polygon that begins with so few


def check_masks(annotations: list[dict], sizes: np.ndarray, use: str, evaluated: bool, notes: Notes) -> None:
    """Look at the masks of instances.

    Args:
        annotations: the instances that the loader hands on or, if ``evaluated``, that the metric compares.
        sizes: width and height of the image of each.
        use: ``required`` if an instance without mask is an error, otherwise ``optional``.
        evaluated: whether a metric reads the masks from the annotation file; it leaves none out.
        notes: gets the findings.
    """
    found = {kind: [] for kind in ('none', 'wrong', 'far', 'long', 'resized', 'runs', 'first', 'short')}
    for annotation, (width, height) in zip(annotations, sizes.tolist()):
        kind = fault(annotation.get('segmentation'), width, height, evaluated)
        if kind:
            found[kind].append(annotation['id'])
    total = len(annotations)
    if use == 'required':
        notes.some(
            ERROR,
            'instances without a mask',
            found['none'],
            total,
            'the pipeline or the evaluator wants one '
            "of each; take LoadPartialMaskAnnotations instead of LoadAnnotations, metric='bbox', or remove them",
        )
    else:
        notes.some(WARNING, 'instances without a mask', found['none'], total, 'only their boxes are learnt')
    notes.some(
        ERROR,
        'masks that are neither polygons [[x, y, …], …] nor {"size": [height, width], "counts": …}',
        found['wrong'],
        total,
        'correct or remove them',
    )
    notes.some(
        ERROR,
        'masks with coordinates that are no numbers, or far from any image',
        found['far'],
        total,
        'correct or remove them: reading them crashes',
    )
    notes.some(
        ERROR,
        f'masks with an outline of more than {OUTLINE:,.0f} pixels',
        found['long'],
        total,
        'correct or remove them: reading them takes GiBs',
    )
    notes.some(
        ERROR, 'masks of another size than their image', found['resized'], total, '"size" must be [height, width]'
    )
    notes.some(
        ERROR,
        'masks that do not fill their image',
        found['runs'],
        total,
        'the runs of "counts" must add up to height times width',
    )
    notes.some(
        ERROR,
        'masks whose first polygon is empty or shorter than three points',
        found['first'],
        total,
        "the evaluator reads those as well that training leaves out; remove them, or take metric='bbox'",
    )
    notes.some(
        WARNING,
        'masks with polygons that are empty, shorter than three points or of odd length',
        found['short'],
        total,
        'such polygons are left out',
    )


def fault(mask: Any, width: float, height: float, evaluated: bool) -> str | None:
    """What is wrong with a mask, in a word; None if nothing is, and 'short' if that is no matter."""
    if not mask:
        return 'none'
    if isinstance(mask, dict):
        size, counts = mask.get('size'), mask.get('counts')
        if not isinstance(size, list) or len(size) != 2 or not isinstance(counts, (list, str)):
            return 'wrong'
        if size != [height, width] or not all(map(_is_whole, size)):
            return 'resized'
        return None if _fill(counts, width * height) else 'runs'
    if not isinstance(mask, list) or not all(isinstance(polygon, list) for polygon in mask):
        return 'wrong'
    values = list(chain.from_iterable(mask))
    if not set(map(type, values)) <= {int, float}:
        return 'far'
    low, high = min(values, default=0), max(values, default=0)
    if not (-FAR <= low <= high <= FAR and math.isfinite(sum(values))):  # NaN may hide from min and max
        return 'far'
    if (high - low) * len(values) > OUTLINE and sum(map(_outline, mask)) > OUTLINE:
        return 'long'
    if evaluated and len(mask[0]) <= BOX:
        return 'first'
    return 'short' if any(len(polygon) < 6 or len(polygon) % 2 for polygon in mask) else None


def _outline(polygon: list) -> float:
    """Its length as pycocotools draws it: a step goes to the next pixel, also aslant."""
    points = np.array(polygon[: len(polygon) // 2 * 2], float).reshape(-1, 2)
    return np.abs(points - np.roll(points, 1, axis=0)).max(1).sum()


def _fill(counts: Any, pixels: float) -> bool:
    """Whether run lengths, as a list or as COCO's text, cover every pixel once."""
    if isinstance(counts, str):
        runs = run_lengths(counts)
        return runs is not None and bool((runs >= 0).all()) and int(runs.sum()) == pixels
    return all(map(_is_whole, counts)) and sum(counts) == pixels


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0

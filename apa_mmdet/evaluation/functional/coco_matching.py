"""Matching of detections with objects, and average precision over recall, exactly as in pycocotools.

Letters in shapes: A ranges of area, T thresholds of the overlap, D detections, G objects.
"""

import numpy as np

AREAS = {'all': (0, 1e5**2), 'small': (0, 32**2), 'medium': (32**2, 96**2), 'large': (96**2, 1e5**2)}  # square pixels
RECALLS = np.linspace(0, 1, 101)
CHUNK = 2**23  # numbers in a temporary array: all proposals of a large data set are one category


def outside_areas(areas: np.ndarray) -> np.ndarray:
    """Which areas (n,) are outside of each of :data:`AREAS`, (A, n)."""
    return np.array([(areas < low) | (areas > high) for low, high in AREAS.values()])


def match(
    overlaps: np.ndarray, thresholds: np.ndarray, ignored: np.ndarray, crowd: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Match the detections of one image and category, best score first, each with at most one object.

    A detection takes the free object of the highest overlap at or above the threshold, the last of equal ones; an
    ignored object only if no other is possible. A crowd is never taken, so that any number of detections match it.

    Args:
        overlaps: (D, G), the detections in the order of their scores.
        thresholds: (T,).
        ignored: (A, G), crowds and objects outside of the area.
        crowd: (G,).

    Returns:
        Whether a detection is matched, and whether with an ignored object, each (A, T, D).

    Example:
        >>> overlaps, nothing = np.array([[0.9, 0.6], [0.8, 0.7]]), np.zeros((1, 2), bool)
        >>> match(overlaps, np.array([0.5, 0.75]), nothing, nothing[0])[0].tolist()
        [[[True, True], [True, False]]]
    """
    shape = len(ignored), len(thresholds), len(overlaps)
    matched, with_ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    thresholds = np.minimum(thresholds, 1 - 1e-10)
    taken = np.zeros((*shape[:2], len(crowd)), bool)
    columns, ignored = np.arange(len(crowd)), ignored[:, None]
    for i in np.flatnonzero(overlaps.max(1) >= thresholds.min()):
        free = (overlaps[i] >= thresholds[:, None]) & ~taken
        preferred = free & ~ignored
        found = free.any(-1)
        only_ignored = found & ~preferred.any(-1)
        possible = np.where(only_ignored[..., None], free, preferred)
        candidates = np.where(possible, overlaps[i], -1.0)
        best = len(crowd) - 1 - candidates[..., ::-1].argmax(-1)  # the last of equal ones
        matched[:, :, i], with_ignored[:, :, i] = found, only_ignored
        taken |= (columns == best[..., None]) & found[..., None] & ~crowd
    return matched, with_ignored


def average_over_recall(right: np.ndarray, counted: np.ndarray, objects: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision, averaged over :data:`RECALLS`, and the highest recall, each (T,).

    The precision at a recall is the highest that is reached at this recall or a higher one, 0 where none is.

    Args:
        right: (T, D), whether a detection is a hit, in the order of the scores of all images.
        counted: (T, D), whether it counts, as a hit or as a false one.
        objects: their number, at least 1.

    Example:
        >>> average_over_recall(np.array([[True, False]]), np.array([[True, True]]), 2)
        (array([0.5049505]), array([0.5]))
    """
    count, length = right.shape
    precision, recall = np.zeros(count), np.zeros(count)
    step = max(1, CHUNK // max(1, length))
    for start in range(0, count if length else 0, step):
        rows = slice(start, start + step)
        hits = right[rows].cumsum(1, dtype=float)
        recall[rows] = hits[:, -1] / objects
        envelope = hits / (counted[rows].cumsum(1, dtype=float) + np.spacing(1))
        np.maximum.accumulate(envelope[:, ::-1], axis=1, out=envelope[:, ::-1])
        hits /= objects
        for i in range(len(hits)):
            reached = hits[i].searchsorted(RECALLS)
            precision[start + i] = envelope[i, reached[reached < length]].sum() / len(RECALLS)
    return precision, recall

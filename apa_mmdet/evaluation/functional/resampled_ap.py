"""Average precision under resampling of images: each image counts as often as a sample has drawn it.

Letters in shapes: S samples, I images, D detections, T thresholds of the overlap, K categories.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from .category_matches import CategoryMatches
from .coco_matching import RECALLS

CHUNK = 2**22  # numbers in a temporary array


def draw_images(images: int, samples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each image is drawn, (I, 1 + S): once in the first column, which are the images as they are.

    A sample of the bootstrap draws as many images as there are, with replacement.

    Example:
        >>> draw_images(3, 2, np.random.default_rng(0)).sum(0).tolist()
        [3, 3, 3]
    """
    weights = np.ones((images, 1 + samples), np.int32)
    for s in range(1, 1 + samples):
        weights[:, s] = np.bincount(rng.integers(images, size=images), minlength=images)
    return weights


def resampled_precision(matches: CategoryMatches, weights: np.ndarray) -> np.ndarray:
    """Average precision of a category, (S,), averaged over the thresholds; NaN in samples without its objects.

    With :math:`m_i` for how often a sample has drawn image i, detections in the order of their scores, :math:`h_d` for
    a hit and :math:`c_d` for a detection that counts,

    .. math:: P_d = \\frac{\\sum_{e ≤ d} m_{i(e)} h_e}{\\sum_{e ≤ d} m_{i(e)} c_e}, \\quad
              R_d = \\frac{\\sum_{e ≤ d} m_{i(e)} h_e}{\\sum_g m_{i(g)}},

    g running over the objects. As of COCO and LVIS, AP is the mean, over the recalls r of :data:`RECALLS`, of the
    highest :math:`P_d` with :math:`R_d ≥ r`, 0 where there is none. That equals the evaluation of a data set that has
    image i :math:`m_i` times, ties of scores between images aside: the copies of a hit follow each other, and the last
    has the highest precision of them.

    Args:
        matches: of the category.
        weights: :math:`m_i`, (I, S), integers.

    Example:
        >>> matches = CategoryMatches(np.array([0, 1]), *np.array([[[False, True]], [[True, True]]]), np.array([1]))
        >>> resampled_precision(matches, np.array([[1, 0, 3, 1], [1, 1, 1, 0]])).round(6).tolist()
        [0.5, 1.0, 0.25, nan]
    """
    objects = weights[matches.objects].sum(0)
    precision = np.zeros(weights.shape[1])
    last = np.flatnonzero(matches.right.any(0))[-1:]  # what is behind it changes nothing
    if last.size:
        kept = slice(int(last[0]) + 1)
        matches = matches._replace(
            image=matches.image[kept], right=matches.right[:, kept], counted=matches.counted[:, kept]
        )
        step = max(1, CHUNK // len(matches.image))
        for start in range(0, weights.shape[1], step):
            part = slice(start, start + step)
            precision[part] = _average_over_recall(matches, weights[:, part], np.maximum(objects[part], 1))
    return np.where(objects > 0, precision, np.nan)


def _average_over_recall(matches: CategoryMatches, weights: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """As ``coco_matching.average_over_recall``, with weights, averaged over the thresholds; looks at hits only."""
    total = np.zeros(weights.shape[1])
    for counted, rows in _equal_rows(matches.counted):
        chosen = np.flatnonzero(counted)
        drawn = weights[matches.image[chosen]]
        seen = drawn.cumsum(0, dtype=np.int32)
        for right, equal in _equal_rows(matches.right[rows]):
            hits = np.flatnonzero(right[chosen])
            if hits.size:
                found = drawn[hits].cumsum(0, dtype=np.int32)
                envelope = found / (seen[hits] + np.spacing(1))
                np.maximum.accumulate(envelope[::-1], axis=0, out=envelope[::-1])
                # how many recalls are reached first by this hit, which is there 0, 1 or several times
                reached = np.diff(RECALLS.searchsorted(found / objects, 'right'), axis=0, prepend=0)
                total += len(equal) * (envelope * reached).sum(0)
    return total / (len(matches.right) * len(RECALLS))


def _equal_rows(table: np.ndarray) -> Iterable[tuple[np.ndarray, list[int]]]:
    """The different rows of a table of booleans, each with the positions that have it."""
    positions: dict[bytes, list[int]] = {}
    for i, row in enumerate(table):
        positions.setdefault(row.tobytes(), []).append(i)
    return ((table[found[0]], found) for found in positions.values())


def resampled_means(
    matches: Iterable[tuple[int, CategoryMatches]], weights: np.ndarray, groups: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The mean of the average precisions of the categories of each group, each (S,); NaN where none has objects.

    A category without objects in a sample is skipped in its means.

    Args:
        matches: of categories that have objects, by position.
        weights: how often each sample has drawn an image, (I, S).
        groups: by name, whether a category belongs to it, (K,).
    """
    sums = {name: np.zeros((2, weights.shape[1])) for name in groups}
    for k, of_category in matches:
        precision = resampled_precision(of_category, weights)
        with_objects = ~np.isnan(precision)
        for name, members in groups.items():
            if members[k]:
                sums[name] += np.where(with_objects, precision, 0), with_objects
    return {
        name: np.divide(total, count, np.full_like(total, np.nan), where=count > 0)
        for name, (total, count) in sums.items()
    }

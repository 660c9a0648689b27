"""The plan of the tiny LVIS: which image shows which classes.

48 classes: 8 shapes x 6 appearances. At 800 training images a third of them each is frequent, common and rare, and
every shape and every appearance has frequent, common and rare classes: what is rare is a combination, so that features
learned from frequent classes help. Validation is uniform over the classes instead, so that the AP of rare classes rests
on as many objects as that of the others.
"""

from typing import NamedTuple

import numpy as np

from .scenes import APPEARANCES, SHAPES

CATEGORIES = tuple(sorted(f'{appearance}_{shape}' for appearance in APPEARANCES for shape in SHAPES))
SPLITS = ('train', 'val')  # their positions seed the random numbers
OBJECTS = (2, 6)  # fewest and most objects in an image
NEGATIVES = dict(train=8, val=20)  # verified absent classes per image; many in val, so that false positives count
NOT_EXHAUSTIVE = 0.05  # share of images where one of several objects of a class is not annotated
VAL_CLASSES_PER_IMAGE = 3.8


class ImagePlan(NamedTuple):
    """The content of an image, as 0-based class indices, from the back to the front.

    ``dropped`` is the position in ``objects`` of the one that is drawn but not annotated, or None.
    """

    objects: tuple[int, ...]
    dropped: int | None
    negatives: tuple[int, ...]


def class_ranks() -> np.ndarray:
    """The rank of each class in the long tail, 0 the most frequent, in the order of ``CATEGORIES``.

    Three levels of 16 classes (frequent, common, rare) form a Latin square over shapes x appearances, so that each
    shape has two classes of each level and each appearance two or three.
    """
    ranks = {}
    for s, shape in enumerate(sorted(SHAPES)):
        for a, appearance in enumerate(sorted(APPEARANCES)):
            ranks[f'{appearance}_{shape}'] = 16 * ((s + a) % 3) + 8 * ((s + a // 3) % 2) + 5 * s % 8
    return np.array([ranks[name] for name in CATEGORIES])


def planned_counts(split: str, num_images: int) -> np.ndarray:
    """The number of images that each class should be in; small sets have no room for all of them."""
    if split == 'val':
        return np.full(len(CATEGORIES), max(1, round(VAL_CLASSES_PER_IMAGE * num_images / len(CATEGORIES))))
    # Shares of the images at five ranks, geometric in between. LVIS calls a class frequent above 100 images and
    # rare up to 10: at 800 to 1,000 images the thresholds fall on ranks 16 and 32.
    rank, share = [0, 15, 31, 32, 47], [0.26, 0.129, 0.0145, 0.0100, 0.0025]
    ranks = class_ranks()
    counts = np.exp(np.interp(ranks, rank, np.log(share))) * num_images
    counts[ranks >= 36] = np.minimum(counts[ranks >= 36], 10)  # a quarter stays rare however large the set
    return np.maximum(1, counts.round()).astype(int)


def _deal(counts: np.ndarray, num_images: int, rng: np.random.Generator) -> list[list[int]]:
    """Assign each class ``c`` to ``counts[c]`` different images of at most ``OBJECTS[1]`` classes."""
    dealt = [[] for _ in range(num_images)]
    for category in np.argsort(-counts, kind='stable'):
        free = np.array([OBJECTS[1] - len(d) for d in dealt], float)
        number = min(counts[category], int((free > 0).sum()))
        if number:  # emptier images are likelier, or some would stay empty
            for i in rng.choice(num_images, number, replace=False, p=free**2 / (free**2).sum()):
                dealt[i].append(int(category))
    for empty in [d for d in dealt if not d]:
        empty.append(max(dealt, key=len).pop())
    return dealt


def plan_split(split: str, num_images: int, seed: int) -> list[ImagePlan]:
    """The plans of the images of a split, ``'train'`` or ``'val'``."""
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    plans = []
    for objects in _deal(planned_counts(split, num_images), num_images, rng):
        classes, dropped = list(objects), None
        hide = rng.random() < NOT_EXHAUSTIVE
        while len(objects) < OBJECTS[0]:
            objects.append(objects[0])
        if len(objects) < OBJECTS[1] and (hide or rng.random() < 0.15):
            objects.append(classes[rng.integers(len(classes))])
        objects = [objects[k] for k in rng.permutation(len(objects))]
        several = [k for k, c in enumerate(objects) if objects.count(c) > 1]
        if hide and several:
            dropped = several[rng.integers(len(several))]
        absent = np.setdiff1d(np.arange(len(CATEGORIES)), classes)
        negatives = np.sort(rng.choice(absent, NEGATIVES[split], replace=False))
        plans.append(ImagePlan(tuple(objects), dropped, tuple(negatives.tolist())))
    return plans


def plan_objects(num_images: int) -> list[ImagePlan]:
    """The plans of images of one object each: the classes take turns."""
    return [ImagePlan((i % len(CATEGORIES),), None, ()) for i in range(num_images)]

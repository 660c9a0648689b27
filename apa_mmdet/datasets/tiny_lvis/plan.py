"""The plan of a drawn data set: which image shows which classes of a vocabulary.

Training is long-tailed, as the vocabulary says. Validation is uniform over the classes instead, so that the AP of rare
classes rests on as many objects as that of the others.
"""

from typing import NamedTuple

import numpy as np

from .vocabularies import TINY, Vocabulary

SPLITS = ('train', 'val')  # their positions seed the random numbers
NOT_EXHAUSTIVE = 0.05  # share of images where one of several objects of a class is not annotated


class ImagePlan(NamedTuple):
    """The content of an image, as 0-based class indices, from the back to the front.

    ``dropped`` is the position in ``objects`` of the one that is drawn but not annotated, or None.
    """

    objects: tuple[int, ...]
    dropped: int | None
    negatives: tuple[int, ...]


def planned_counts(split: str, num_images: int, vocabulary: Vocabulary = TINY) -> np.ndarray:
    """The number of images that each class should be in; small sets have no room for all of them."""
    ranks = vocabulary.ranks
    if split == 'val':
        return np.full(len(ranks), max(1, round(vocabulary.val_classes * num_images / len(ranks))))
    rank, share = vocabulary.tail
    counts = np.exp(np.interp(ranks, rank, np.log(share))) * num_images
    counts[ranks >= vocabulary.first_rare] = np.minimum(counts[ranks >= vocabulary.first_rare], 10)
    return np.maximum(1, counts.round()).astype(int)


def _deal(counts: np.ndarray, num_images: int, most: int, rng: np.random.Generator) -> list[list[int]]:
    """Assign each class ``c`` to ``counts[c]`` different images of at most ``most`` classes."""
    dealt = [[] for _ in range(num_images)]
    for category in np.argsort(-counts, kind='stable'):
        free = np.array([most - len(d) for d in dealt], float)
        number = min(counts[category], int((free > 0).sum()))
        if number:  # emptier images are likelier, or some would stay empty
            for i in rng.choice(num_images, number, replace=False, p=free**2 / (free**2).sum()):
                dealt[i].append(int(category))
    for empty in [d for d in dealt if not d]:
        empty.append(max(dealt, key=len).pop())
    return dealt


def _negatives(classes: list[int], number: int, families: np.ndarray, rng: np.random.Generator) -> tuple[int, ...]:
    """``number`` classes that are not among ``classes``: all those that look like one of them, and any others."""
    absent = np.setdiff1d(np.arange(len(families)), classes)
    alike = np.isin(families[absent], families[classes])
    others = rng.choice(absent[~alike], number - alike.sum(), replace=False)
    return tuple(np.sort([*absent[alike], *others]).tolist())


def plan_split(split: str, num_images: int, seed: int, vocabulary: Vocabulary = TINY) -> list[ImagePlan]:
    """The plans of the images of a split, ``'train'`` or ``'val'``."""
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    fewest, most = vocabulary.objects
    plans = []
    for objects in _deal(planned_counts(split, num_images, vocabulary), num_images, most, rng):
        classes, dropped = list(objects), None
        hide = rng.random() < NOT_EXHAUSTIVE
        while len(objects) < fewest:
            objects.append(objects[0])
        if len(objects) < most and (hide or rng.random() < 0.15):
            objects.append(classes[rng.integers(len(classes))])
        objects = [objects[k] for k in rng.permutation(len(objects))]
        several = [k for k, c in enumerate(objects) if objects.count(c) > 1]
        if hide and several:
            dropped = several[rng.integers(len(several))]
        negatives = _negatives(classes, vocabulary.negatives[split], vocabulary.families, rng)
        plans.append(ImagePlan(tuple(objects), dropped, negatives))
    return plans


def plan_objects(num_images: int, vocabulary: Vocabulary = TINY) -> list[ImagePlan]:
    """The plans of images of one object each: the classes take turns."""
    return [ImagePlan((i % len(vocabulary.names),), None, ()) for i in range(num_images)]

"""Vocabularies of drawn classes: their names, how often each is seen, and which of them look alike.

``TINY``, 48 classes: 8 shapes x 6 appearances. At 800 training images a third of them each is frequent, common and
rare, and every shape and every appearance has frequent, common and rare classes: what is rare is a combination, so that
features learned from frequent classes help.

``SMALL``, 360 classes: 5 marks x 3 surfaces x 4 colors x 6 shapes. At 4,000 training images a third of them is rare,
40% common, and the most frequent one is in 1,200 images. Five classes that differ in their mark only are a family; each
has rare, common and frequent members, so that a rare class is easily taken for a frequent one.
"""

from itertools import product
from typing import NamedTuple

import numpy as np

from .appearances import APPEARANCES, COLORS, MARKS, SURFACES
from .shapes import SHAPES


class Vocabulary(NamedTuple):
    """Classes to draw, C of them. ``k`` is the 0-based index of a class.

    Attributes:
        names: of an appearance and a shape: ``plain_green_star``.
        definition: makes a sentence of the parts of a name.
        ranks: (C,), the rank of each class in the long tail; 0 is the most frequent.
        tail: some ranks, and the shares of the training images at these; geometric in between.
        first_rare: the ranks from here on stay rare, with 10 images at most, however large the set.
        families: (C,), a number of the family of each class; members look alike.
        objects: fewest and most objects in an image.
        val_classes: classes in a validation image, on average.
        negatives: verified absent classes per image, by split; those that look like a class in it are among them. Many
            in val, so that false positives count.
    """

    names: tuple[str, ...]
    definition: str
    ranks: np.ndarray
    tail: tuple[list[int], list[float]]
    first_rare: int
    families: np.ndarray
    objects: tuple[int, int]
    val_classes: float
    negatives: dict[str, int]

    def look(self, k: int) -> tuple[str, str]:
        """The shape and the appearance of a class."""
        appearance, shape = self.names[k].rsplit('_', 1)
        return shape, appearance

    def define(self, k: int) -> str:
        return self.definition.format(*self.names[k].split('_'))


CATEGORIES = tuple(sorted(f'{appearance}_{shape}' for appearance in APPEARANCES for shape in SHAPES))


def _latin_square() -> np.ndarray:
    """The ranks of ``CATEGORIES``.

    Three levels of 16 classes (frequent, common, rare) form a Latin square over shapes x appearances, so that each
    shape has two classes of each level and each appearance two or three.
    """
    ranks = {}
    for s, shape in enumerate(sorted(SHAPES)):
        for a, appearance in enumerate(sorted(APPEARANCES)):
            ranks[f'{appearance}_{shape}'] = 16 * ((s + a) % 3) + 8 * ((s + a // 3) % 2) + 5 * s % 8
    return np.array([ranks[name] for name in CATEGORIES])


TINY = Vocabulary(
    names=CATEGORIES,
    definition='a {1} {0} {2}',
    ranks=_latin_square(),
    # LVIS calls a class frequent above 100 images and rare up to 10: at 800 to 1,000 images the thresholds fall on
    # ranks 16 and 32
    tail=([0, 15, 31, 32, 47], [0.26, 0.129, 0.0145, 0.0100, 0.0025]),
    first_rare=36,
    families=np.arange(len(CATEGORIES)),  # each class is alone
    objects=(2, 6),
    val_classes=3.8,
    negatives=dict(train=8, val=20),
)

SOLID = ('cross', 'disk', 'heart', 'square', 'star', 'triangle')  # shapes that a mark at the center lies on
MARKED_CATEGORIES = tuple('_'.join(parts) for parts in product(MARKS, SURFACES, COLORS, SOLID))


def _ranks_in_families(families: int, seed: int = 0) -> np.ndarray:
    """The ranks of ``MARKED_CATEGORIES``, (5 * families,): class ``k`` is in family ``k % families``.

    Drawn are which families have two rare, two common and one frequent member (two of three) or one, two and two; which
    member is which; and the order within each level.
    """
    rng = np.random.default_rng(seed)
    levels = np.tile([[2, 2, 1, 1, 0], [2, 2, 1, 1, 0], [2, 1, 1, 0, 0]], (families // 3, 1))  # 0 is frequent
    levels = rng.permuted(rng.permutation(levels), axis=1).T.ravel()
    ranks = np.empty(len(levels), int)
    ranks[np.lexsort((rng.random(len(levels)), levels))] = np.arange(len(levels))
    return ranks


_FAMILIES = len(MARKED_CATEGORIES) // len(MARKS)
SMALL = Vocabulary(
    names=MARKED_CATEGORIES,
    definition='a {2} {1} {3}, mark: {0}',
    ranks=_ranks_in_families(_FAMILIES),
    # nearly a power of the rank at the head. At 4,000 images the thresholds of LVIS fall on ranks 96 and 240
    tail=(
        [0, 1, 3, 8, 20, 50, 95, 96, 239, 240, 359],
        [count / 4000 for count in (1200, 800, 500, 300, 200, 140, 102, 100, 11, 10, 1)],
    ),
    first_rare=240,
    families=np.arange(len(MARKED_CATEGORIES)) % _FAMILIES,
    objects=(4, 8),
    val_classes=5.4,
    negatives=dict(train=40, val=120),  # 32 at most look like one of the 8
)

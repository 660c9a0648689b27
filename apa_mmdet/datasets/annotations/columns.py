"""Annotations as columns, which take a tenth of the memory of dictionaries."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np

from apa_mmdet.utils.findings import EXAMPLES, Findings

from .segmentations import plain

RECORD = dict(  # column of each field
    id='ids',
    image_id='image_ids',
    category_id='category_ids',
    bbox='boxes',
    area='areas',
    iscrowd='iscrowd',
    ignore='ignore',
    segmentation='segmentations',
)


@dataclass(frozen=True)
class Annotations:
    """Annotations of N objects, a column for each field; iterating gives dictionaries again.

    Attributes:
        ids, image_ids, category_ids: (N,), whole numbers of 64 bits, or objects if an id is larger or a text.
        boxes: (N, 4), x, y, width, height in pixels.
        areas: (N,), square pixels.
        iscrowd, ignore: values as in the file, None where there is none.
        segmentations: as :func:`.segmentations.plain` takes them.

    Example:
        >>> record = dict(id=7, image_id=1, category_id=2, bbox=[0, 0, 4, 5], area=20)
        >>> Annotations.of([record]).boxes
        array([[0., 0., 4., 5.]])
    """

    ids: np.ndarray
    image_ids: np.ndarray
    category_ids: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    iscrowd: list
    ignore: list
    segmentations: list

    @classmethod
    def of(cls, records: Iterable[dict]) -> 'Annotations':
        """Columns of dictionaries with valid fields."""
        records = list(records)
        return cls(
            *(id_column([record[key] for record in records]) for key in ('id', 'image_id', 'category_id')),
            np.array([record['bbox'] for record in records], float).reshape(-1, 4),
            np.array([record['area'] for record in records], float),
            *([record.get(key) for record in records] for key in ('iscrowd', 'ignore', 'segmentation')),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[dict]:
        return (dict(r, segmentation=plain(r['segmentation'])) if 'segmentation' in r else r for r in self.records())

    def records(self, masks: bool = True) -> Iterator[dict]:
        """Dictionaries without fields that are None; with ``masks``, ``segmentation`` as in the column."""
        names = [name for name in RECORD if masks or name != 'segmentation']
        columns = [getattr(self, column) for name, column in RECORD.items() if name in names]
        for values in zip(*(c if isinstance(c, list) else c.tolist() for c in columns)):
            yield {name: value for name, value in zip(names, values) if value is not None}

    def replace(self, positions: list[int], others: 'Annotations') -> 'Annotations':
        """The same columns with ``others`` at some positions."""
        merged = []
        for mine, theirs in zip(vars(self).values(), vars(others).values()):
            if isinstance(mine, list):
                mine = list(mine)
                for position, value in zip(positions, theirs):
                    mine[position] = value
            else:
                mine = mine.astype(np.promote_types(mine.dtype, theirs.dtype))
                mine[positions] = theirs
            merged.append(mine)
        return Annotations(*merged)

    def select(self, chosen: np.ndarray) -> 'Annotations':
        """Those that are ``chosen`` (N,)."""
        columns = vars(self).values()
        return Annotations(*(list(compress(c, chosen)) if isinstance(c, list) else c[chosen] for c in columns))

    def check(
        self,
        findings: Findings,
        code: str,
        wrong: np.ndarray | list[bool],
        detail: Callable[[int], str] | None = None,
        among: np.ndarray | None = None,
        **values: Any,
    ) -> None:
        """Report those that are ``wrong`` (N,), of all or ``among`` some; ``detail`` says more about a position."""
        chosen = np.asarray(wrong, bool)
        total = len(self) if among is None else int(among.sum())
        positions = np.flatnonzero(chosen if among is None else chosen & among)
        details = [detail(position) for position in positions[:EXAMPLES].tolist()] if detail else []
        findings.report(code, self.ids[positions].tolist(), total, details, **values)


@dataclass(frozen=True)
class FileAnnotations:
    """The annotations of a file before validation; iterating gives all as dictionaries.

    Attributes:
        columns: of the regular ones, whose fields are of the right types; at the position of another, of no meaning.
        irregular: the others by position, as ``json`` reads them.
    """

    columns: Annotations
    irregular: dict[int, Any]

    def __len__(self) -> int:
        return len(self.columns)

    def __iter__(self) -> Iterator[Any]:
        return (self.irregular.get(i, record) for i, record in enumerate(self.columns))


def id_column(values: list) -> np.ndarray:
    """Ids as an array of numbers, or of objects if one is not a number of 64 bits."""
    if set(map(type, values)) <= {int}:
        try:
            return np.array(values, np.int64)
        except OverflowError:
            pass
    column = np.empty(len(values), object)
    for i, value in enumerate(values):  # a value may be a list
        column[i] = value
    return column

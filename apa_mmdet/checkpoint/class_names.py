"""Compares the classes of a checkpoint with those of a data set: equal numbers of other classes fit everywhere."""

from collections.abc import Sequence
from typing import Any


def recorded_classes(meta: Any) -> tuple[str, ...] | None:
    """The names of the classes in ``meta`` of a checkpoint, whatever that is; None if it has none.

    Example:
        >>> recorded_classes(dict(dataset_meta=dict(classes=['date', 'fig']))), recorded_classes(dict(CLASSES=('fig',)))
        (('date', 'fig'), ('fig',))
    """
    known = meta.get('dataset_meta', meta) if isinstance(meta, dict) else None
    if not isinstance(known, dict):
        return None
    names = {str(key).lower(): value for key, value in known.items()}.get('classes')  # before mmdet 3, CLASSES
    return tuple(map(str, names)) if isinstance(names, (list, tuple)) else None


def class_differences(theirs: Sequence[str], ours: Sequence[str]) -> str | None:
    """Says how two lists of classes differ, with the first difference; None if they are the same.

    Example:
        >>> class_differences(('fig', 'date'), ('date', 'fig'))
        "in another order: 2 of 2 differ, the first is 'fig' there and 'date' here"
        >>> class_differences(('date', 'plum'), ('date', 'fig'))
        "with other names: 1 of 2 differ, the first is 'plum' there and 'fig' here"
        >>> class_differences(('date',), ('date', 'fig'))
        'of another number: 1 there, 2 here'
    """
    if len(theirs) != len(ours):
        return f'of another number: {len(theirs)} there, {len(ours)} here'
    pairs = [(a, b) for a, b in zip(theirs, ours) if a != b]
    if not pairs:
        return None
    how = 'in another order' if sorted(theirs) == sorted(ours) else 'with other names'
    return f'{how}: {len(pairs)} of {len(ours)} differ, the first is {pairs[0][0]!r} there and {pairs[0][1]!r} here'

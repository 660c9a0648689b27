"""Finds classes by name among the categories of a file."""

from collections import Counter
from collections.abc import Iterator, Sequence

from apa_mmdet.utils.findings import Findings

SPELLINGS = {'speaker_(stero_equipment)': 'speaker_(stereo_equipment)'}  # LVIS's files: mmdet's classes


def match_classes(classes: Sequence[str], names: Sequence[str]) -> list[int]:
    """The position of each of ``classes`` among ``names``; -1 where it is not among them.

    Of a name that occurs several times, the first is matched with the first, the second with the second.

    Example:
        >>> match_classes(['bat', 'fig', 'bat', 'bat'], ['bat', 'date', 'bat'])
        [0, -1, 2, -1]
    """
    position = {occurrence: i for i, occurrence in enumerate(_occurrences(names))}
    return [position.get(occurrence, -1) for occurrence in _occurrences(classes)]


def find_classes(classes: Sequence[str], names: Sequence[str], origin: str, setting: str, owner: str) -> list[int]:
    """As :func:`match_classes`, all of them.

    Raises:
        ValidationError: if ``origin``, the file of the ``setting`` of ``owner``, lacks a class.
    """
    report_lacking(classes, names, origin, setting, Findings(owner, strict=True))
    return match_classes(classes, names)


def report_lacking(classes: Sequence[str], names: Sequence[str], origin: str, setting: str, findings: Findings) -> None:
    """Report the ``classes`` that ``origin``, the file of class frequencies of a ``setting``, lacks among ``names``."""
    lacking = [name for name, i in zip(classes, match_classes(classes, names)) if i < 0]
    findings.report('class-without-frequency', lacking, len(classes), setting=setting, path=origin)


def _occurrences(names: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Each name as mmdet spells it, and how often it came before."""
    seen: Counter[str] = Counter()
    for name in names:
        name = SPELLINGS.get(name, name)
        yield name, seen[name]
        seen[name] += 1

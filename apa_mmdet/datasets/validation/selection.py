"""Selects categories of an annotation file by name."""

from collections.abc import Sequence
from typing import Any

from .class_frequencies import SPELLINGS
from .findings import Findings, show

BY_NAME = 'finds_classes_by_name'  # in the metainfo of a data set that selects, where metrics find it


def select_categories(classes: Sequence[str], categories: Sequence[dict], path: str) -> list[dict]:
    """The categories with these names, in the order of the names.

    Raises:
        ValidationError: ``missing-category``, naming the classes that the file at ``path`` lacks, or
            ``duplicate-class``.

    Example:
        >>> select_categories(['fig', 'date'], [dict(id=1, name='date'), dict(id=2, name='fig')], 'train.json')
        [{'id': 2, 'name': 'fig'}, {'id': 1, 'name': 'date'}]
    """
    classes, findings = [SPELLINGS.get(name, name) for name in classes], Findings(path, strict=True)
    of_name: dict[Any, dict] = {}
    for category in categories:
        of_name.setdefault(SPELLINGS.get(category['name'], category['name']), category)
    names = ', '.join(show(category['name']) for category in categories[:3]) + ', …' * (len(categories) > 3)
    lacking = [name for name in classes if name not in of_name]
    give = 'correct metainfo.classes'
    findings.report('missing-category', lacking, len(classes), names=names, give=give)
    doubles = sorted({name for name in classes if classes.count(name) > 1}) if len(set(classes)) < len(classes) else []
    findings.report('duplicate-class', doubles, len(classes))
    return [of_name[name] for name in classes]

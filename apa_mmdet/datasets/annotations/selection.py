"""Selects categories of an annotation file by name."""

from collections.abc import Sequence

from apa_mmdet.utils.findings import Findings, show

from .class_names import SPELLINGS, match_classes

BY_NAME = 'finds_classes_by_name'  # in the metainfo of a data set that selects, where metrics find it


def select_categories(classes: Sequence[str], categories: Sequence[dict], path: str) -> list[dict]:
    """The categories with these names, in the order of the names; of several with one name, the first.

    Raises:
        ValidationError: ``missing-category``, naming the classes that the file at ``path`` lacks, or
            ``duplicate-class``.

    Example:
        >>> select_categories(['fig', 'date'], [dict(id=1, name='date'), dict(id=2, name='fig')], 'train.json')
        [{'id': 2, 'name': 'fig'}, {'id': 1, 'name': 'date'}]
    """
    classes, findings = [SPELLINGS.get(name, name) for name in classes], Findings(path, strict=True)
    doubles = sorted({name for name in classes if classes.count(name) > 1}) if len(set(classes)) < len(classes) else []
    findings.report('duplicate-class', doubles, len(classes))
    names = [category['name'] for category in categories]
    chosen = match_classes(classes, names)
    lacking = [name for name, i in zip(classes, chosen) if i < 0]
    first = ', '.join(map(show, names[:3])) + ', …' * (len(names) > 3)
    findings.report('missing-category', lacking, len(classes), names=first, give='correct metainfo.classes')
    return [categories[i] for i in chosen]

"""Image frequency of each class, by its name, from a list, from image counts or from an annotation file."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from .findings import Findings, ValidationError, brief
from .reading import read_content
from .records import ID, NAME, REFERENCES, Field, is_count, valid_annotations, valid_records

IMAGE_COUNT = Field('a number of images', is_count)
SPELLINGS = {'speaker_(stero_equipment)': 'speaker_(stereo_equipment)'}  # LVIS's files: mmdet's classes


class ClassFrequencies(NamedTuple):
    """Image frequencies of the categories of a file. ``names`` are theirs, None for a file without names."""

    values: list[float]
    names: list[str] | None = None

    def of(self, classes: Sequence[str] | None, origin: str) -> list[float]:
        """The frequencies of ``classes``, by name; all in the file's order without classes or names.

        Raises:
            ValidationError: if the file, which is called ``origin``, lacks a class.

        Example:
            >>> ClassFrequencies([0.0, 0.2, 0.7], ['food', 'date', 'fig']).of(['fig', 'date'], 'train.json')
            [0.7, 0.2]
        """
        if classes is None or self.names is None:
            return self.values
        return [self.values[i] for i in find_classes(classes, self.names, origin, 'class_frequency', 'DropLoss')]


def find_classes(classes: Sequence[str], names: Sequence[str], origin: str, setting: str, owner: str) -> list[int]:
    """The positions of ``classes`` among ``names``; the first of a name is that of the first.

    Raises:
        ValidationError: if ``origin``, the file of the ``setting`` of ``owner``, lacks a class.
    """
    report_lacking(classes, names, origin, setting, Findings(owner, strict=True))
    position = {occurrence: i for i, occurrence in enumerate(_occurrences(names))}
    return [position[occurrence] for occurrence in _occurrences(classes)]


def report_lacking(classes: Sequence[str], names: Sequence[str], origin: str, setting: str, findings: Findings) -> None:
    """Report the ``classes`` that ``origin``, the file of class frequencies of a ``setting``, lacks among ``names``."""
    known = set(_occurrences(names))
    lacking = [c for c, occurrence in zip(classes, _occurrences(classes)) if occurrence not in known]
    findings.report('class-without-frequency', lacking, len(classes), setting=setting, path=origin)


def _occurrences(names: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Each name as mmdet spells it, and how often it came before: the first of a name is that of the file's first."""
    seen: Counter[str] = Counter()
    for name in names:
        name = SPELLINGS.get(name, name)
        yield name, seen[name]
        seen[name] += 1


def read_class_frequencies(path: str) -> ClassFrequencies:
    """Read the frequencies from a file of any kind that :func:`~..class_statistics.load_class_frequency` reads."""
    content = read_content(path)
    return class_frequencies(count_images(content, path) or content, path)


def class_frequencies(content: Any, origin: str) -> ClassFrequencies:
    """Frequencies from a list of them, or from image counts as :func:`count_images` gives them.

    A ValidationError for other content names ``origin``, the record and the key.
    """
    if isinstance(content, list):
        return ClassFrequencies(check_frequencies(content, origin))
    if not isinstance(content, dict):
        raise ValidationError('not-frequencies', path=origin, type=type(content).__name__)
    n_images = content.get('n_images_annotated')
    if not is_count(n_images) or not n_images:
        raise ValidationError('invalid-images-annotated', path=origin, value=brief(n_images))
    categories = _categories(content, origin, IMAGE_COUNT)
    values = check_frequencies([c['image_count'] / n_images for c in categories], origin)
    is_named = all('name' in c for c in categories)
    return ClassFrequencies(values, [c['name'] for c in categories] if is_named else None)


def check_frequencies(frequencies: Sequence[float], origin: str) -> list[float]:
    """The frequencies as floats.

    Raises:
        ValidationError: unless each is a number in [0, 1]; it names ``origin`` and the position.
    """
    for index, value in enumerate(frequencies):
        if isinstance(value, (bool, str)) or not hasattr(value, '__float__') or not 0 <= value <= 1:
            raise ValidationError('invalid-frequency', [index], path=origin, index=index, value=brief(value))
    return [float(value) for value in frequencies]


def count_images(content: Any, origin: str) -> dict | None:
    """Images of each category in an annotation file, unless it has them, and images with any annotation.

    None for other content; a ValidationError as of :func:`class_frequencies` for annotations that cannot be counted.
    """
    if not isinstance(content, dict) or 'n_images_annotated' in content:
        return None
    annotations = valid_annotations(content, Findings(origin, strict=True), REFERENCES)
    pairs = set(zip(annotations.category_ids.tolist(), annotations.image_ids.tolist()))
    seen = Counter(category for category, _ in pairs)
    categories = [
        dict({k: c[k] for k in ('id', 'name') if k in c}, image_count=c.get('image_count', seen[c['id']]))
        for c in _categories(content, origin, IMAGE_COUNT._replace(optional=True))
    ]
    return dict(n_images_annotated=len({image for _, image in pairs}), categories=categories)


def _categories(content: dict, origin: str, image_count: Field) -> list[dict]:
    fields = dict(id=ID, name=NAME._replace(optional=True), image_count=image_count)
    return valid_records(content, 'categories', Findings(origin, strict=True), fields)

"""Image frequency of each class, by its name, from a list, from image counts or from an annotation file."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from apa_mmdet.utils.findings import Findings, ValidationError, brief

from .class_names import find_classes
from .records import ID, NAME, Field, is_count, valid_records

IMAGE_COUNT = Field('a number of images', is_count)


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


def class_frequencies(content: Any, origin: str) -> ClassFrequencies:
    """Frequencies from a list of them, or from image counts as :func:`~.class_measurement.measure_classes` gives them.

    A ValidationError for other content names ``origin``, the record and the key.
    """
    if isinstance(content, list):
        return ClassFrequencies(check_frequencies(content, origin))
    if not isinstance(content, dict):
        raise ValidationError.of('not-frequencies', path=origin, type=type(content).__name__)
    n_images = content.get('n_images_annotated')
    if not is_count(n_images) or not n_images:
        raise ValidationError.of('invalid-images-annotated', path=origin, value=brief(n_images))
    categories = _categories(content, origin)
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
            raise ValidationError.of('invalid-frequency', [index], path=origin, index=index, value=brief(value))
    return [float(value) for value in frequencies]


def _categories(content: dict, origin: str) -> list[dict]:
    fields = dict(id=ID, name=NAME._replace(optional=True), image_count=IMAGE_COUNT)
    return valid_records(content, 'categories', Findings(origin, strict=True), fields)

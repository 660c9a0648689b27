"""Image frequency of each class, from a list, from image counts or from an annotation file."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from .findings import Findings, ValidationError, brief
from .reading import read_json
from .records import ID, REFERENCES, Field, is_count, valid_records

IMAGE_COUNT = Field('a number of images', is_count)


def read_class_frequencies(path: str) -> list[float]:
    """Read the frequencies from a file of any kind that :func:`~..class_statistics.load_class_frequency` reads."""
    content = read_json(path)
    return class_frequencies(count_images(content, path) or content, path)


def class_frequencies(content: Any, origin: str) -> list[float]:
    """Frequencies from a list of them, or from image counts as :func:`count_images` gives them.

    A ValidationError for other content names ``origin``, the record and the key.
    """
    if isinstance(content, list):
        return check_frequencies(content, origin)
    if not isinstance(content, dict):
        raise ValidationError('not-frequencies', path=origin, type=type(content).__name__)
    n_images = content.get('n_images_annotated')
    if not is_count(n_images) or not n_images:
        raise ValidationError('invalid-images-annotated', path=origin, value=brief(n_images))
    categories = _categories(content, origin, IMAGE_COUNT)
    return check_frequencies([c['image_count'] / n_images for c in categories], origin)


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
    annotations = valid_records(content, 'annotations', Findings(origin, strict=True), REFERENCES)
    pairs = {(annotation['category_id'], annotation['image_id']) for annotation in annotations}
    seen = Counter(category for category, _ in pairs)
    categories = [
        dict(id=c['id'], image_count=c.get('image_count', seen[c['id']]))
        for c in _categories(content, origin, IMAGE_COUNT._replace(optional=True))
    ]
    return dict(n_images_annotated=len({image for _, image in pairs}), categories=categories)


def _categories(content: dict, origin: str, image_count: Field) -> list[dict]:
    return valid_records(content, 'categories', Findings(origin, strict=True), dict(id=ID, image_count=image_count))

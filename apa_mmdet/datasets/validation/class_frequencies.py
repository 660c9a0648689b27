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
    return class_frequencies(count_images(content, path) if is_annotation_file(content) else content, path)


def is_annotation_file(content: Any) -> bool:
    """Whether the images of each class have yet to be counted."""
    return isinstance(content, dict) and 'n_images_annotated' not in content


def class_frequencies(content: Any, origin: str) -> list[float]:
    """Frequencies from a list of them, or from image counts as :func:`count_images` gives them.

    Raises:
        ValidationError: if it is neither; it names ``origin``, the record and the key.
    """
    if isinstance(content, list):
        return check_frequencies(content, origin)
    if not isinstance(content, dict):
        raise ValidationError('not-frequencies', path=origin, type=type(content).__name__)
    n_images = content.get('n_images_annotated')
    if not is_count(n_images) or not n_images:
        raise ValidationError('invalid-images-annotated', path=origin, value=brief(n_images))
    fields = dict(id=ID, image_count=IMAGE_COUNT)
    categories = valid_records(content, 'categories', Findings(origin, strict=True), fields)
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


def count_images(content: dict, origin: str) -> dict:
    """Images of each category in an annotation file, unless it has them, and images with any annotation.

    Raises:
        ValidationError: at the first record without what is needed; it names ``origin``, the record and the key.
    """
    findings = Findings(origin, strict=True)
    annotations = valid_records(content, 'annotations', findings, REFERENCES)
    pairs = {(annotation['category_id'], annotation['image_id']) for annotation in annotations}
    fields = dict(id=ID, image_count=IMAGE_COUNT._replace(optional=True))
    seen = Counter(category for category, _ in pairs)
    categories = [
        dict(id=c['id'], image_count=c.get('image_count', seen[c['id']]))
        for c in valid_records(content, 'categories', findings, fields)
    ]
    return dict(n_images_annotated=len({image for _, image in pairs}), categories=categories)

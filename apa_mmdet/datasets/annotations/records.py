"""Records of an annotation file: which fields they need, that ids are unique, and that they refer to each other."""

from bisect import bisect
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np

from apa_mmdet.utils.findings import Findings, brief

from .columns import Annotations, FileAnnotations

MAX_NUMBER = 1e12  # pixels, or square pixels
MAX_SIDE, MAX_PIXELS = 1 << 20, 1 << 30  # OpenCV reads no larger image
MAX_INT64 = 1 << 63  # ids of images and categories are kept as signed integers of 64 bits


def is_id(value: Any) -> bool:
    return type(value) in (int, str)


def is_number(value: Any) -> bool:
    # true is 1 to Python; NaN is in no range
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -MAX_NUMBER < value < MAX_NUMBER


def is_integer_id(value: Any) -> bool:
    return type(value) is int and -MAX_INT64 <= value < MAX_INT64


def is_count(value: Any) -> bool:
    return is_number(value) and value >= 0


class Field(NamedTuple):
    """What a field must be, in words and as a test; ``optional``: it may be absent."""

    meaning: str
    fits: Callable[[Any], bool]
    optional: bool = False


ID = Field('a number', is_id)
PIXELS = Field('a whole number of pixels', lambda side: is_number(side) and 0 < side <= MAX_SIDE and side % 1 == 0)
BOX = Field('[x, y, width, height]', lambda box: isinstance(box, list) and len(box) == 4 and all(map(is_number, box)))
NAME = Field('a text', lambda name: isinstance(name, str) and bool(name.strip()))
REFERENCES = dict(image_id=Field('the id of an image', is_id), category_id=Field('the id of a category', is_id))
FIELDS: dict[str, dict[str, Field]] = dict(
    images=dict(id=ID, width=PIXELS, height=PIXELS),
    annotations=dict(id=ID, **REFERENCES, bbox=BOX, area=Field('a number', is_number)),
    categories=dict(id=ID, name=NAME),
)


def valid_records(content: dict, kind: str, findings: Findings, fields: dict[str, Field] | None = None) -> list[dict]:
    """The records of ``content[kind]`` with valid ``fields`` (default: ``FIELDS[kind]``); the others are reported."""
    fields = fields or FIELDS[kind]
    records = content.get(kind)
    if not isinstance(records, list) or not records:
        findings.add('missing-records', [kind], records=kind)
        return []
    invalid = _report_invalid(dict(enumerate(records)), len(records), kind, fields, findings)
    valid = [record for i, record in enumerate(records) if i not in invalid]
    if 'id' in fields:
        _report_duplicates([record['id'] for record in valid], len(records), kind, findings)
    return valid


def valid_annotations(content: dict, findings: Findings) -> Annotations:
    """As :func:`valid_records` of the annotations, which may be :class:`.columns.FileAnnotations`."""
    read = content.get('annotations')
    if not isinstance(read, FileAnnotations):
        return Annotations.of(valid_records(content, 'annotations', findings))
    annotations = read.columns
    if read.irregular:
        invalid = _report_invalid(read.irregular, len(read), 'annotations', FIELDS['annotations'], findings)
        others = {i: record for i, record in read.irregular.items() if i not in invalid}
        annotations = annotations.replace(list(others), Annotations.of(others.values()))
        kept = np.ones(len(read), bool)
        kept[list(invalid)] = False
        annotations = annotations.select(kept)
    _report_duplicates(annotations.ids.tolist(), len(read), 'annotations', findings)
    return annotations


def _report_invalid(
    records: Mapping[int, Any], total: int, kind: str, fields: dict[str, Field], findings: Findings
) -> set[int]:
    """Report the records, by their positions among ``total``, whose fields are not valid; their positions."""
    others = [i for i, record in records.items() if not isinstance(record, dict)]
    details = [brief(records[i]) for i in others]
    findings.report('not-an-object', [f'number {i}' for i in others], total, details, records=kind)
    invalid = set(others)
    objects = {i: record for i, record in records.items() if isinstance(record, dict)}
    for key, field in fields.items():
        wrong = [i for i, r in objects.items() if not (field.fits(r.get(key)) or (field.optional and key not in r))]
        # counted without what is not an object
        ids = [objects[i].get('id', f'number {i - bisect(others, i)}') for i in wrong]
        details = [brief(objects[i][key]) if key in objects[i] else '' for i in wrong]
        findings.report('invalid-field', ids, total, details, records=kind, key=key, meaning=field.meaning)
        invalid.update(wrong)
    return invalid


def _report_duplicates(ids: list, total: int, kind: str, findings: Findings) -> None:
    if len(set(ids)) < len(ids):
        repeated = [key for key, count in Counter(ids).items() if count > 1]
        findings.report('duplicate-id', repeated, total, records=kind)


def class_image_pairs(category: np.ndarray, image: np.ndarray, images: int) -> np.ndarray:
    """Category and image of each annotation, by position among ``images``, every pair once and in order, (2, N).

    Example:
        >>> class_image_pairs(np.array([1, 0, 1]), np.array([2, 5, 2]), 6)
        array([[0, 1],
               [5, 2]])
    """
    pairs = np.sort(category.astype(np.int64) * images + image)  # numpy's own unique takes six times as long
    return np.stack(np.divmod(pairs[np.diff(pairs, prepend=-1) > 0], images))


class Records(NamedTuple):
    """The valid records of an annotation file, and for each annotation the positions of its image and category.

    A position is -1 where the file has no such record.
    """

    images: list[dict]
    categories: list[dict]
    annotations: Annotations
    image: np.ndarray
    category: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Width and height of each annotation's image; 0 and 0 where it has none."""
        return np.array([(image['width'], image['height']) for image in self.images] + [(0, 0)], float)[self.image]

    @property
    def single(self) -> np.ndarray:
        """Which annotations are no crowds."""
        return np.array([not flag for flag in self.annotations.iscrowd], bool)


def collect_records(content: dict, findings: Findings, needs_annotations: bool = True) -> Records:
    """Validate the three lists of an annotation file; ``needs_annotations``: an empty list of them is an error."""
    images, categories = (valid_records(content, kind, findings) for kind in ('images', 'categories'))
    findings.check('image-too-large', images, lambda i: i['width'] * i['height'] > MAX_PIXELS, pixels=MAX_PIXELS)
    annotations = Annotations.of([])
    if needs_annotations or content.get('annotations') != []:
        annotations = valid_annotations(content, findings)
    image = _positions(annotations, 'image', images, findings)
    category = _positions(annotations, 'category', categories, findings)
    return Records(images, categories, annotations, image, category)


def _positions(annotations: Annotations, kind: str, records: list[dict], findings: Findings) -> np.ndarray:
    """Position of each annotation's image or category among the ``records``, -1 where it has none."""
    key, position = f'{kind}_id', {record['id']: i for i, record in enumerate(records)}
    ids = getattr(annotations, f'{key}s')
    positions = np.fromiter(map(position.get, ids.tolist(), repeat(-1)), int, len(ids))
    lost = positions < 0
    if records and lost.any():  # without records, reported already
        texts = set(map(str, position))
        mismatched = all(str(i) in texts for i in ids[lost].tolist())
        code = 'id-type-mismatch' if mismatched else f'unknown-{kind}'
        annotations.check(findings, code, lost, lambda i: f'{kind} {brief(ids[i : i + 1].tolist()[0])}', key=key)
    return positions

"""What an annotation file in COCO's or LVIS's format holds, and what training would stumble over."""
import json
import math
from collections import Counter
from typing import Any, Container, Dict, List, NamedTuple, Optional, Sequence

import numpy as np

ERROR, WARNING = 'error', 'warning'
RARE = 10  # images, LVIS's own threshold


class Finding(NamedTuple):
    """One thing that is wrong (``error``) or odd (``warning``) in a data set, or in the model (``dataset='model'``)."""

    severity: str
    dataset: str
    message: str


class Notes:
    """The findings of one data set."""

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset
        self.findings: List[Finding] = []

    def error(self, message: str) -> None:
        self.findings.append(Finding(ERROR, self.dataset, message))

    def warning(self, message: str) -> None:
        self.findings.append(Finding(WARNING, self.dataset, message))

    def some(self, severity: str, what: str, which: Sequence, total: int, then: str) -> None:
        """A finding about ``which`` (ids, names) of ``total``; none where ``which`` is empty.

        Example:
            >>> notes = Notes('train')
            >>> notes.some('warning', 'images without annotations', [4, 7, 8, 9], 20, 'they are background')
            >>> notes.findings[0].message
            'images without annotations: 4 of 20, e.g. 4, 7, 8; they are background'
        """
        if len(which):
            message = f'{what}: {len(which)} of {total}, e.g. {", ".join(map(str, which[:3]))}; {then}'
            self.findings.append(Finding(severity, self.dataset, message))


class Content(NamedTuple):
    """What is kept of an annotation file; the rest is let go, for it may take gigabytes."""

    images: List[dict]
    categories: List[dict]
    instances: int
    counts: Dict[str, int]  # instances that training sees, by class
    rare: int  # classes with 1 to 10 images


# ---------------------------------------------------------------- reading


def read_annotations(path: str) -> dict:
    """Read an annotation file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is no JSON, ends too early or is no annotation file, in one line.
    """
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
    except json.JSONDecodeError as error:
        if not error.doc.strip():
            raise ValueError(f'{path} is empty; get it again') from None
        if error.msg.startswith('Unterminated') or error.pos >= len(error.doc.rstrip()) - len('false'):
            raise ValueError(f'{path} breaks off after {len(error.doc)} characters; get it again') from None
        raise ValueError(f'{path} is not JSON ({error.msg}, line {error.lineno}, column {error.colno}); it should be '
                         'the unpacked annotation file') from None
    except UnicodeDecodeError:
        raise ValueError(f'{path} is not JSON but binary; if it is an archive, unpack it') from None
    if not isinstance(content, dict):
        raise ValueError(f'{path} holds a {type(content).__name__} instead of an object with images, annotations and '
                         'categories')
    return content


# ---------------------------------------------------------------- records and their fields


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _is_side(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


# list: field: (what it must be, whether it is)
FIELDS = dict(
    images=dict(id=('a number', _is_id), width=('pixels', _is_side), height=('pixels', _is_side)),
    annotations=dict(
        id=('a number', _is_id), image_id=('the id of an image', _is_id), category_id=('the id of a category', _is_id),
        bbox=('[x, y, width, height]', _is_box), area=('a number', _is_number)),
    categories=dict(id=('a number', _is_id), name=('a text', _is_name)))


def _records(content: dict, kind: str, notes: Notes) -> List[dict]:
    """The records of ``content[kind]`` that have all the fields they need; the others are reported."""
    records = content.get(kind)
    if not isinstance(records, list) or not records:
        notes.error(f'the annotation file has no "{kind}"; it should be one of instances in COCO\'s format')
        return []
    total = len(records)
    others = [r for r in records if not isinstance(r, dict)]
    notes.some(ERROR, f'entries of "{kind}" that are no objects', others, total, 'remove them')
    records = [r for r in records if isinstance(r, dict)]
    bad = set()
    for field, (meaning, fits) in FIELDS[kind].items():
        wrong = [i for i, r in enumerate(records) if not fits(r.get(field))]
        notes.some(ERROR, f'{kind} without "{field}" ({meaning})', [records[i].get('id', f'number {i}') for i in wrong],
                   total, 'add it, or remove them')
        bad.update(wrong)
    records = [r for i, r in enumerate(records) if i not in bad] if bad else records
    twice = [key for key, count in Counter(r['id'] for r in records).items() if count > 1]
    notes.some(ERROR, f'ids of {kind} used more than once', twice, total, 'number them anew')
    return records


# ---------------------------------------------------------------- checks


def check_annotations(content: dict, notes: Notes, classes: Optional[Container[str]], masks: str) -> Content:
    """Look through an annotation file.

    Args:
        content: as :func:`read_annotations` gives it.
        notes: gets the findings.
        classes: the classes that the data set picks by their names; None where it takes every category.
        masks: ``required`` if an instance without mask is an error, ``optional``, or ``unused``.
    """
    images, categories, annotations = (_records(content, kind, notes)
                                       for kind in ('images', 'categories', 'annotations'))
    if not (images and categories and annotations):
        return Content(images, categories, len(annotations), {}, 0)
    twice = [name for name, count in Counter(c['name'] for c in categories).items() if count > 1]
    notes.some(ERROR, 'names of categories used more than once', twice, len(categories), 'give each its own')

    image_at = {record['id']: i for i, record in enumerate(images)}
    category_at = {record['id']: i for i, record in enumerate(categories)}
    image = np.array([image_at.get(a['image_id'], -1) for a in annotations], int)
    category = np.array([category_at.get(a['category_id'], -1) for a in annotations], int)
    orphans = [f'{a["id"]} (image {a["image_id"]})' for a, i in zip(annotations, image) if i < 0]
    notes.some(ERROR, 'annotations of images that are not in the file', orphans, len(annotations), 'remove them')
    orphans = [f'{a["id"]} (category {a["category_id"]})' for a, c in zip(annotations, category) if c < 0]
    notes.some(ERROR, 'annotations of categories that are not in the file', orphans, len(annotations),
               'correct them, or add the categories')
    empty = sorted(set(range(len(images))) - set(image.tolist()))
    notes.some(WARNING, 'images without annotations', [images[i]['id'] for i in empty], len(images),
               'training leaves them out with filter_empty_gt=True, and takes them for background without')

    in_use = np.array([classes is None or c['name'] in classes for c in categories] + [False])  # the last: category -1
    sizes = np.array([(r['width'], r['height']) for r in images] + [(0, 0)], float)
    seen = (image >= 0) & in_use[category] & ~_left_out(annotations, sizes[image], image >= 0, notes)
    if masks != 'unused':
        _check_masks([a for a, s in zip(annotations, seen) if s], sizes[image[seen]], masks, notes)
    crowd = np.array([bool(a.get('iscrowd')) for a in annotations], bool)
    counts, image_counts = _count(category[seen & ~crowd], image[seen & ~crowd], len(categories))
    names = [c['name'] for c in categories]
    return Content(images, categories, len(annotations),
                   {name: int(n) for name, n, used in zip(names, counts, in_use) if used},
                   int(((image_counts > 0) & (image_counts <= RARE)).sum()))


def _left_out(annotations: List[dict], sizes: np.ndarray, known: np.ndarray, notes: Notes) -> np.ndarray:
    """Which instances mmdet's data sets skip, by the rule of ``CocoDataset.parse_data_info``."""
    boxes = np.array([a['bbox'] for a in annotations], float).reshape(-1, 4)
    area = np.array([a['area'] for a in annotations], float)
    ignored = np.array([bool(a.get('ignore')) for a in annotations], bool)
    low, side = boxes[:, :2], boxes[:, 2:]
    inside = np.clip(np.minimum(low + side, sizes) - np.maximum(low, 0), 0, None).prod(1)
    flat = (side <= 0).any(1) | (area <= 0)
    outside = known & ((low < -1).any(1) | (low + side > sizes + 1).any(1))
    skipped = ignored | flat | (side < 1).any(1) | (known & (inside == 0))

    def ids(chosen):
        return [annotations[i]['id'] for i in np.flatnonzero(chosen)]

    total = len(annotations)
    notes.some(WARNING, 'boxes that reach more than a pixel out of their image', ids(outside), total,
               'boxes are [x, y, width, height] in pixels')
    notes.some(WARNING, 'boxes without area', ids(flat), total, 'width, height or "area" is 0 or less')
    notes.some(WARNING, 'instances that mmdet leaves out', ids(skipped), total,
               'marked "ignore", without area, narrower than a pixel or out of their image')
    return skipped


def _check_masks(annotations: List[dict], sizes: np.ndarray, masks: str, notes: Notes) -> None:
    """Look at the masks of the instances that the data set hands on."""
    none, wrong, short, resized = [], [], [], []
    for annotation, size in zip(annotations, sizes):
        mask = annotation.get('segmentation')
        if not mask:
            none.append(annotation['id'])
        elif isinstance(mask, dict):
            if not mask.get('size') or not isinstance(mask.get('counts'), (list, str)):
                wrong.append(annotation['id'])
            elif list(mask['size']) != [size[1], size[0]]:
                resized.append(annotation['id'])
        elif not isinstance(mask, list) or not all(isinstance(polygon, list) for polygon in mask):
            wrong.append(annotation['id'])
        elif any(len(polygon) < 6 or len(polygon) % 2 for polygon in mask):
            short.append(annotation['id'])
    total = len(annotations)
    if masks == 'required':
        notes.some(ERROR, 'instances without a mask', none, total, 'the pipeline or the evaluator wants one of each; '
                   "take LoadOptionalMasks instead of LoadAnnotations, metric='bbox', or remove them")
    else:
        notes.some(WARNING, 'instances without a mask', none, total, 'only their boxes are learnt')
    notes.some(ERROR, 'masks that are neither polygons [[x, y, …], …] nor {"size": …, "counts": …}', wrong, total,
               'correct or remove them')
    notes.some(ERROR, 'masks of another size than their image', resized, total, '"size" must be [height, width]')
    notes.some(WARNING, 'masks with polygons that are empty, shorter than three points or of odd length', short, total,
               'such polygons are left out')


def _count(category: np.ndarray, image: np.ndarray, number: int):
    """Instances of each class, and images with it."""
    pairs = np.unique(np.stack([category, image]), axis=1) if len(category) else np.zeros((2, 0), int)
    return np.bincount(category, minlength=number), np.bincount(pairs[0], minlength=number)


def check_lvis_fields(content: Content, notes: Notes) -> None:
    """What LVIS's metric needs beyond COCO's fields: classes known to be absent, and each class's frequency."""
    for field in ('neg_category_ids', 'not_exhaustive_category_ids'):
        lacking = [r['id'] for r in content.images if not isinstance(r.get(field), list)]
        notes.some(ERROR, f'images without "{field}"', lacking, len(content.images),
                   "LVIS's metric needs it; take CocoMetric for data without")
    lacking = [c['name'] for c in content.categories if c.get('frequency') not in ('r', 'c', 'f')]
    notes.some(ERROR, 'categories without "frequency" (r, c or f)', lacking, len(content.categories),
               "LVIS's metric needs it; take CocoMetric for data without")

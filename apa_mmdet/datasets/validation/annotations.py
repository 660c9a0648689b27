"""What an annotation file in COCO's or LVIS's format holds, and what training would stumble over."""

import json
from collections import Counter
from collections.abc import Container, Sequence
from typing import Any, NamedTuple

import numpy as np

from .findings import ERROR, WARNING, Notes, show
from .masks import check_masks
from .sources import Use

RARE = 10  # images, LVIS's own threshold
LARGE = 1e12  # pixels, or square pixels
EXACT = 1 << 53  # metrics keep ids as floating-point numbers
SIDE, PIXELS = 1 << 20, 1 << 30  # OpenCV reads no larger picture
BITS = 1 << 63  # ids of images and categories are kept as signed integers of 64 bits
MANY = 0.1  # of the boxes


class Content(NamedTuple):
    """What is kept of an annotation file; the rest is let go, for it may take gigabytes."""

    images: list[dict]
    categories: list[dict]
    instances: int
    counts: dict[str, int]  # instances that training sees, by class
    rare: int  # classes with 1 to 10 images
    labelled: np.ndarray  # whether an image has any annotation of a class in use, also one that training skips
    annotated: int = 0  # images with any annotation


# ---------------------------------------------------------------- reading


def read_annotations(path: str) -> dict:
    """Read an annotation file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is no JSON, ends too early or is no annotation file, in one line.
    """
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file, object_pairs_hook=_record)
    except json.JSONDecodeError as error:
        if not error.doc.strip():
            raise ValueError(f'{path} is empty; get it again') from None
        if error.msg.startswith('Unterminated') or error.pos >= len(error.doc.rstrip()) - len('false'):
            raise ValueError(f'{path} breaks off after {len(error.doc)} characters; get it again') from None
        raise ValueError(
            f'{path} is not JSON ({error.msg}, line {error.lineno}, column {error.colno}); it should be '
            'the unpacked annotation file'
        ) from None
    except UnicodeDecodeError:
        with open(path, 'rb') as file:
            packed = file.read(4).startswith((b'\x1f\x8b', b'PK\x03\x04'))
        raise ValueError(
            f'{path} is an archive; unpack it'
            if packed
            else f'{path} is not JSON in UTF-8; save it in that encoding, or get it again'
        ) from None
    except RecursionError:
        raise ValueError(f'{path} is nested too deeply for an annotation file; get it again') from None
    except _NamedTwice as error:
        raise ValueError(f'{path} {error}, of which the last would count; take one of them away') from None
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f'{path} cannot be read ({error}); correct it') from None
    if not isinstance(content, dict):
        raise ValueError(
            f'{path} holds a {type(content).__name__} instead of an object with images, annotations and categories'
        )
    return content


class _NamedTwice(ValueError):
    pass


def _record(pairs: list[tuple[str, Any]]) -> dict:
    record = dict(pairs)
    if len(record) < len(pairs):
        key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        whose = f'the record with the id {show(record["id"])}' if 'id' in record else 'a record without id'
        raise _NamedTwice(f'gives "{show(key)}" more than once in {whose}')
    return record


# ---------------------------------------------------------------- records and their fields


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    # true is 1 to Python; NaN is in no range
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -LARGE < value < LARGE


def is_side(value: Any) -> bool:
    return is_number(value) and 0 < value <= SIDE and value == int(value)


def is_whole_id(value: Any) -> bool:
    return type(value) is int and -BITS <= value < BITS


def is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


# list: field: (what it must be, whether it is)
FIELDS = dict(
    images=dict(id=('a number', _is_id), width=('pixels', is_side), height=('pixels', is_side)),
    annotations=dict(
        id=('a number', _is_id),
        image_id=('the id of an image', _is_id),
        category_id=('the id of a category', _is_id),
        bbox=('[x, y, width, height]', is_box),
        area=('a number', is_number),
    ),
    categories=dict(id=('a number', _is_id), name=('a text', _is_name)),
)


def _records(content: dict, kind: str, notes: Notes) -> list[dict]:
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
        notes.some(
            ERROR,
            f'{kind} without "{field}" ({meaning})',
            [records[i].get('id', f'number {i}') for i in wrong],
            total,
            'add it, or remove them',
        )
        bad.update(wrong)
    records = [r for i, r in enumerate(records) if i not in bad] if bad else records
    twice = [key for key, count in Counter(r['id'] for r in records).items() if count > 1]
    notes.some(ERROR, f'ids of {kind} used more than once', twice, total, 'number them anew')
    return records


# ---------------------------------------------------------------- checks


def check_annotations(content: dict, notes: Notes, classes: Container[str] | None, use: Use) -> Content:
    """Look through an annotation file.

    Args:
        content: as :func:`read_annotations` gives it.
        notes: gets the findings.
        classes: the classes that the data set picks by their names; None where it takes every category.
        use: what the data set is used for.
    """
    images, categories = (_records(content, kind, notes) for kind in ('images', 'categories'))
    large = [r['id'] for r in images if r['width'] * r['height'] > PIXELS]
    notes.some(ERROR, f'images of more than {PIXELS:,} pixels', large, len(images), 'no reader opens them; correct it')
    # LVIS's reader wants the list, be it empty
    bare = not use.annotated and content.get('annotations', None if classes is None else []) == []
    annotations = [] if bare else _records(content, 'annotations', notes)
    if not (images and categories and (annotations or bare)):
        return Content(images, categories, len(annotations), {}, 0, np.zeros(len(images), bool))

    image = _places(annotations, 'image', images, 'remove them', notes)
    category = _places(annotations, 'category', categories, 'correct them, or add the categories', notes)
    in_use = np.array([classes is None or c['name'] in classes for c in categories] + [False])  # the last: category -1
    used = (image >= 0) & in_use[category]
    if not bare:
        empty = np.flatnonzero(np.bincount(image[image >= 0], minlength=len(images)) == 0)
        notes.some(
            WARNING,
            'images without annotations',
            [images[i]['id'] for i in empty],
            len(images),
            'training leaves them out with filter_empty_gt=True, and takes them for background without',
        )
    _check_flags(annotations, ['ignore'] if use.evaluated_as_coco else ['iscrowd', 'ignore'], notes)
    compared = image >= 0 if use.evaluated_as_lvis else used  # LVIS's metric has no choice of classes
    check_evaluated([a for a, c in zip(annotations, compared) if c], use, notes)

    sizes = np.array([(r['width'], r['height']) for r in images] + [(0, 0)], float)
    seen = used & ~_left_out(annotations, sizes[image], image >= 0, notes)
    if use.masks != 'unused':
        chosen = compared if use.evaluates_masks else seen
        check_masks(
            [a for a, c in zip(annotations, chosen) if c], sizes[image[chosen]], use.masks, use.evaluates_masks, notes
        )
    seen &= np.array([not a.get('iscrowd') for a in annotations], bool)
    counts, image_counts = _count(category[seen], image[seen], len(categories))
    times = Counter(c['name'] for c in categories)
    names = [c['name'] if times[c['name']] == 1 else f'{c["name"]} (id {c["id"]})' for c in categories]
    return Content(
        images,
        categories,
        len(annotations),
        {name: int(n) for name, n, u in zip(names, counts, in_use) if u},
        int(((image_counts > 0) & (image_counts <= RARE)).sum()),
        np.bincount(image[used], minlength=len(images)) > 0,
        len({a['image_id'] for a in annotations}),
    )


def _places(annotations: list[dict], kind: str, records: list[dict], then: str, notes: Notes) -> np.ndarray:
    """Position of each annotation's image or category among the ``records``, -1 where it has none."""
    at = {record['id']: i for i, record in enumerate(records)}
    found = np.array([at.get(a[f'{kind}_id'], -1) for a in annotations], int)
    lost = [annotations[i] for i in np.flatnonzero(found < 0)]
    texts = set(map(str, at))
    if lost and all(str(a[f'{kind}_id']) in texts for a in lost):
        then = f'an id is a number in one place and a text in the other ({lost[0][f"{kind}_id"]!r}): take numbers'
    plural = dict(image='images', category='categories')[kind]
    notes.some(
        ERROR,
        f'annotations of {plural} that are not in the file',
        [f'{a["id"]} ({kind} {a[f"{kind}_id"]!r})' for a in lost],
        len(annotations),
        then,
    )
    return found


def _check_flags(annotations: list[dict], flags: Sequence[str], notes: Notes) -> None:
    for flag in flags:
        wrong = [f'{a["id"]} ({a[flag]!r})' for a in annotations if a.get(flag) not in (None, 0, 1)]
        notes.some(
            ERROR,
            f'annotations whose "{flag}" is neither 0 nor 1',
            wrong,
            len(annotations),
            'training takes whatever is not empty for 1, and leaves them out',
        )


def _left_out(annotations: list[dict], sizes: np.ndarray, known: np.ndarray, notes: Notes) -> np.ndarray:
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
    many = outside.sum() > MANY * total
    notes.some(
        ERROR if many else WARNING,
        'boxes that reach more than a pixel out of their image',
        ids(outside),
        total,
        'perhaps [x1, y1, x2, y2] instead of [x, y, width, height], or of another scale'
        if many
        else 'boxes are [x, y, width, height] in pixels',
    )
    notes.some(WARNING, 'boxes without area', ids(flat), total, 'width, height or "area" is 0 or less')
    notes.some(
        WARNING,
        'instances that mmdet leaves out',
        ids(skipped),
        total,
        'marked "ignore", without area, narrower than a pixel or out of their image',
    )
    return skipped


def _count(category: np.ndarray, image: np.ndarray, number: int):
    """Instances of each class, and images with it."""
    pairs = np.unique(np.stack([category, image]), axis=1) if len(category) else np.zeros((2, 0), int)
    return np.bincount(category, minlength=number), np.bincount(pairs[0], minlength=number)


def check_evaluated(annotations: list[dict], use: Use, notes: Notes) -> None:
    """What metrics need of the annotations that they compare with predictions."""
    if use.evaluated:
        wrong = [a['id'] for a in annotations if isinstance(a['id'], str) or not 0 < a['id'] < EXACT]
        notes.some(
            ERROR,
            'ids of annotations that are no whole number from 1 to 2^53',
            [f'{i!r:.50}' for i in wrong],
            len(annotations),
            'number them from 1: metrics take 0 for "no match"',
        )
        negative = [a['id'] for a in annotations if min(*a['bbox'][2:], a['area']) < 0]
        notes.some(
            ERROR,
            'boxes with a negative width, height or "area"',
            negative,
            len(annotations),
            'correct or remove them: the metric takes them for instances that nobody finds, or for none',
        )
    if use.evaluated_as_coco:
        wrong = [a['id'] for a in annotations if a.get('iscrowd') not in (0, 1)]
        notes.some(
            ERROR, 'annotations without "iscrowd" (0 or 1)', wrong, len(annotations), 'add it, CocoMetric needs it'
        )


def check_lvis_fields(content: Content, notes: Notes) -> None:
    """What LVIS's metric needs beyond COCO's fields: classes known to be absent, and each class's frequency."""
    for kind, records in (('images', content.images), ('categories', content.categories)):
        wrong = [f'{r["id"]!r:.50}' for r in records if not is_whole_id(r['id'])]
        notes.some(
            ERROR,
            f'ids of {kind} that are no whole number of 64 bits',
            wrong,
            len(records),
            "LVIS's metric needs that; number them anew",
        )
    known = {c['id'] for c in content.categories}
    for field in ('neg_category_ids', 'not_exhaustive_category_ids'):
        lacking = [r['id'] for r in content.images if not isinstance(r.get(field), list)]
        notes.some(
            ERROR,
            f'images without "{field}"',
            lacking,
            len(content.images),
            "LVIS's metric needs it; take CocoMetric for data without",
        )
        strange = [
            f'{r["id"]} ({i!r})'
            for r in content.images
            if isinstance(r.get(field), list)
            for i in r[field]
            if not _is_id(i) or i not in known
        ]
        notes.some(
            ERROR,
            f'images whose "{field}" names something that is no category of the file',
            strange,
            len(content.images),
            "correct it, or LVIS's metric judges predictions of that class wrongly",
        )
    lacking = [c['name'] for c in content.categories if c.get('frequency') not in ('r', 'c', 'f')]
    notes.some(
        ERROR,
        'categories without "frequency" (r, c or f)',
        lacking,
        len(content.categories),
        "LVIS's metric needs it; take CocoMetric for data without",
    )

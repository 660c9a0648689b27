"""Checks an annotation file in COCO's or LVIS's format: what training and metrics would fail on or misread."""

from collections import Counter
from collections.abc import Container, Sequence
from typing import NamedTuple

import numpy as np

from .config_datasets import AnnotationUsage
from .findings import Findings, brief
from .masks import check_masks, has_outline
from .records import Records, collect_records, is_id, is_integer_id, select

RARE_IMAGES = 10  # LVIS's own threshold
MAX_EXACT_ID = 1 << 53  # metrics keep ids of annotations as floating-point numbers
MISREAD_SHARE = 0.1  # of the boxes


class Content(NamedTuple):
    """What is kept of an annotation file; the rest is released, because it may take gigabytes."""

    images: list[dict]
    categories: list[dict]
    instances: int
    counts: dict[str, int]  # instances that training sees, by class
    rare: int  # classes with 1 to 10 images
    labeled: np.ndarray  # whether an image has any annotation of a class in use, also one that training skips
    annotated: int = 0  # images with any annotation


def check_annotations(
    content: dict, findings: Findings, classes: Container[str] | None, usage: AnnotationUsage
) -> Content:
    """Check an annotation file.

    Args:
        content: as :func:`~.reading.read_annotations` gives it.
        findings: gets what is wrong.
        classes: the classes that the data set picks by their names; None where it takes every category.
        usage: what the data set is used for.
    """
    if not usage.annotated and classes is not None:  # LVIS's reader needs the list, even empty
        content = {'annotations': [], **content}
    records = collect_records(content, findings, usage.annotated)
    images, categories, annotations, image, category = records
    bare = not usage.annotated and content.get('annotations') == []
    if not (images and categories and (annotations or bare)):
        return Content(images, categories, len(annotations), {}, 0, np.zeros(len(images), bool))

    in_use = np.array([classes is None or c['name'] in classes for c in categories] + [False])  # the last: category -1
    used = (image >= 0) & in_use[category]
    if not bare:
        empty = np.flatnonzero(np.bincount(image[image >= 0], minlength=len(images)) == 0)
        findings.report('image-without-annotations', [images[i]['id'] for i in empty], len(images))
    _check_flags(annotations, ['ignore'] if usage.evaluated_as_coco else ['iscrowd', 'ignore'], findings)
    compared = image >= 0 if usage.evaluated_as_lvis else used  # LVIS's metric has no choice of classes
    _check_evaluated(select(annotations, compared), usage, findings)

    seen = used & ~_check_boxes(records, findings)
    if usage.masks != 'unused':
        chosen = compared if usage.evaluates_masks else seen
        required = usage.masks == 'required'
        check_masks(select(annotations, chosen), records.sizes[chosen], required, usage.evaluates_masks, findings)
        if required:  # mmdet ignores an instance of which no polygon is left
            seen &= np.array([has_outline(a.get('segmentation')) for a in annotations], bool)
    seen &= np.array([not a.get('iscrowd') for a in annotations], bool)
    counts, image_counts = _count(category[seen], image[seen], len(categories))
    times = Counter(c['name'] for c in categories)
    names = [c['name'] if times[c['name']] == 1 else f'{c["name"]} (id {c["id"]})' for c in categories]
    return Content(
        images,
        categories,
        len(annotations),
        {name: int(n) for name, n, u in zip(names, counts, in_use) if u},
        int(((image_counts > 0) & (image_counts <= RARE_IMAGES)).sum()),
        np.bincount(image[used], minlength=len(images)) > 0,
        len({a['image_id'] for a in annotations}),
    )


def check_ground_truth(content: dict, findings: Findings, masks: bool) -> None:
    """Check what ``FastLVISMetric`` reads of an annotation file, and only that.

    Args:
        content: as :func:`~.reading.read_annotations` gives it.
        findings: gets what is wrong.
        masks: whether masks are compared.
    """
    records = collect_records(content, findings, needs_annotations=False)
    check_lvis_fields(records.images, records.categories, findings)
    _check_flags(records.annotations, ['ignore'], findings)
    _check_metric_ids(records.annotations, False, findings)
    _check_box_sides(records.annotations, findings)
    if masks:
        check_masks(records.annotations, records.sizes, required=True, evaluated=True, findings=findings)


def _check_flags(annotations: list[dict], flags: Sequence[str], findings: Findings) -> None:
    for flag in flags:
        wrong = [a for a in annotations if a.get(flag) not in (None, 0, 1)]
        details = [brief(a[flag]) for a in wrong]
        findings.report('invalid-flag', [a['id'] for a in wrong], len(annotations), details, key=flag)


def _check_boxes(records: Records, findings: Findings) -> np.ndarray:
    """Report odd boxes; which instances mmdet skips, by the rule of ``CocoDataset.parse_data_info``."""
    annotations, known, sizes = records.annotations, records.image >= 0, records.sizes
    boxes = np.array([a['bbox'] for a in annotations], float).reshape(-1, 4)
    area = np.array([a['area'] for a in annotations], float)
    ignored = np.array([bool(a.get('ignore')) for a in annotations], bool)
    low, side = boxes[:, :2], boxes[:, 2:]
    inside = np.clip(np.minimum(low + side, sizes) - np.maximum(low, 0), 0, None).prod(1)
    flat = (side <= 0).any(1) | (area <= 0)
    outside = known & ((low < -1).any(1) | (low + side > sizes + 1).any(1))
    skipped = ignored | flat | (side < 1).any(1) | (known & (inside == 0))
    many = outside.sum() > MISREAD_SHARE * len(annotations)
    for code, chosen in (
        ('boxes-misread' if many else 'box-outside-image', outside),
        ('empty-box', flat),
        ('skipped-instance', skipped),
    ):
        findings.report(code, [a['id'] for a in select(annotations, chosen)], len(annotations), share=MISREAD_SHARE)
    return skipped


def _count(category: np.ndarray, image: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Instances of each category, and images with it."""
    pairs = np.unique(np.stack([category, image]), axis=1) if len(category) else np.zeros((2, 0), int)
    return np.bincount(category, minlength=number), np.bincount(pairs[0], minlength=number)


# ---------------------------------------------------------------- what metrics need


def _check_evaluated(annotations: list[dict], usage: AnnotationUsage, findings: Findings) -> None:
    """Check the annotations that metrics compare with predictions."""
    total = len(annotations)
    if usage.evaluated:
        _check_metric_ids(annotations, usage.keeps_annotation_ids, findings)
        _check_box_sides(annotations, findings)
        findings.report('negative-area', [a['id'] for a in annotations if a['area'] < 0], total)
    if usage.evaluated_as_coco:
        findings.report('missing-iscrowd', [a['id'] for a in annotations if a.get('iscrowd') not in (0, 1)], total)


def _check_metric_ids(annotations: list[dict], kept: bool, findings: Findings) -> None:
    """Check ids of annotations; ``kept``: a metric identifies matches by them instead of renumbering."""
    ids = [a['id'] for a in annotations]
    if kept:
        wrong = [i for i in ids if isinstance(i, str) or not 0 <= i < MAX_EXACT_ID]
        meaning = 'a whole number from 1 to 2^53'
        findings.report('annotation-id-zero', [i for i in ids if i == 0], len(ids))
    else:
        wrong, meaning = [i for i in ids if not is_integer_id(i)], 'a whole number of 64 bits'
    findings.report('invalid-annotation-id', wrong, len(ids), meaning=meaning)


def _check_box_sides(annotations: list[dict], findings: Findings) -> None:
    negative = [a['id'] for a in annotations if min(a['bbox'][2:]) < 0]
    findings.report('negative-box', negative, len(annotations))


def check_lvis_fields(images: list[dict], categories: list[dict], findings: Findings) -> None:
    """Check what LVIS's metric needs beyond COCO's fields: classes known to be absent, and each class's frequency."""
    for kind, records in (('images', images), ('categories', categories)):
        wrong = [r['id'] for r in records if not is_integer_id(r['id'])]
        findings.report('non-integer-id', wrong, len(records), records=kind)
    known = {c['id'] for c in categories}
    for key in ('neg_category_ids', 'not_exhaustive_category_ids'):
        lacking = [r['id'] for r in images if not isinstance(r.get(key), list)]
        findings.report('missing-negatives', lacking, len(images), key=key)
        named = [(r['id'], i) for r in images if isinstance(r.get(key), list) for i in r[key]]
        unknown = [(image, i) for image, i in named if not is_id(i) or i not in known]
        details = [brief(i) for _, i in unknown]
        findings.report('unknown-negative', [image for image, _ in unknown], len(images), details, key=key)
    lacking = [c['name'] for c in categories if c.get('frequency') not in ('r', 'c', 'f')]
    findings.report('missing-frequency', lacking, len(categories))

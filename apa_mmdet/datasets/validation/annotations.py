"""Checks an annotation file in COCO's or LVIS's format: what training and metrics would fail on or misread."""

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, fields

import numpy as np

from apa_mmdet.datasets.annotations.columns import Annotations
from apa_mmdet.datasets.annotations.records import Records, class_image_pairs, collect_records, is_id, is_integer_id
from apa_mmdet.datasets.frequency_groups import LVIS_BOUNDS
from apa_mmdet.utils.findings import Findings, brief

from .config_datasets import AnnotationUsage
from .masks import check_masks
from .stray_masks import StrayMasks

MAX_EXACT_ID = 1 << 53  # metrics keep ids of annotations as floating-point numbers
MISREAD_SHARE = 0.1  # of the boxes
CROWD_SHARE = 0.05  # of the annotations; COCO has 0.012
CROWD_SHARE_OF_CLASS = 0.5


@dataclass(frozen=True)
class Summary:
    """What the report, and checks across data sets, need of an annotation file."""

    categories: list[dict]  # with id and name only
    instances: int
    counts: dict[str, int]  # instances that training sees, by class
    rare: int  # classes with 1 to 10 images
    crowds: int  # annotations of a class in use that are marked as crowds
    total_images: int


@dataclass(frozen=True)
class Content(Summary):
    """What is kept of an annotation file to check it further; the rest is released, because it may take gigabytes."""

    images: list[dict]
    labeled: np.ndarray  # whether an image has any annotation of a class in use, also one that training skips

    def summary(self) -> Summary:
        """Without the images."""
        values = {field.name: getattr(self, field.name) for field in fields(Summary)}
        kept = [dict(id=c['id'], name=c['name']) for c in self.categories]
        return Summary(**dict(values, categories=kept))


def check_annotations(
    content: dict, findings: Findings, classes: Container[str] | None, usage: AnnotationUsage
) -> Content:
    """Check an annotation file. ``classes`` are those the data set picks by name; None if it takes every category."""
    if not usage.trained and not content.get('annotations'):
        if usage.annotated:
            findings.add('nothing-to-evaluate', ['annotations'])
        content = {**content, 'annotations': []}
    records = collect_records(content, findings, needs_annotations=usage.trained)
    images, categories, annotations, image, category = records
    bare = not usage.trained and content['annotations'] == []
    if not (images and categories and (annotations or bare)):
        return Content(categories, len(annotations), {}, 0, 0, len(images), images, np.zeros(len(images), bool))
    if not bare:
        findings.check('image-without-annotations', images, np.bincount(image[image >= 0], minlength=len(images)) == 0)
    in_use = np.array([classes is None or c['name'] in classes for c in categories] + [False])  # the last: category -1
    used = (image >= 0) & in_use[category]
    compared = image >= 0 if usage.evaluated_as_lvis else used  # LVIS's metric has no choice of classes
    _check_fields(annotations, usage, compared, findings)
    seen = used & _check_shapes(records, usage, used, compared, findings)
    crowds = used & ~records.single
    _check_crowds(annotations, category, used, crowds, findings)
    return _content(records, in_use, used, crowds, seen & ~crowds)


def _check_fields(annotations: Annotations, usage: AnnotationUsage, compared: np.ndarray, findings: Findings) -> None:
    """Check flags and, of the annotations that are ``compared`` with predictions, what metrics read."""
    if not usage.evaluated_as_coco:  # which needs it, see below
        _check_flag(annotations, 'iscrowd', findings)
    _check_flag(annotations, 'ignore', findings)
    if usage.evaluated:
        _check_metric_fields(annotations, usage.keeps_annotation_ids, findings, compared)
        annotations.check(findings, 'negative-area', annotations.areas < 0, among=compared)
        if usage.evaluated_as_coco:
            _check_crowd_flag(annotations, findings, compared)


def _check_shapes(
    records: Records, usage: AnnotationUsage, used: np.ndarray, compared: np.ndarray, findings: Findings
) -> np.ndarray:
    """Check boxes, and the masks of what is ``compared`` or trained on; which instances mmdet can train on."""
    kept = ~_check_boxes(records, findings)
    if usage.masks == 'unused':
        return kept
    required = usage.masks == 'required'
    strays = StrayMasks(records.annotations, empty=required or bool(usage.plain_mask_head))
    outlined = check_masks(
        records.annotations,
        records.sizes,
        required,
        usage.evaluates_masks,
        findings,
        usage.plain_mask_head,
        among=compared if usage.evaluates_masks else used & kept,
        polygons_only=used & kept & records.single if usage.polygons_only else None,
        strays=strays,
    )
    strays.report(findings)
    return kept & outlined if required else kept  # mmdet ignores an instance of which no polygon is left


def _content(records: Records, in_use: np.ndarray, used: np.ndarray, crowds: np.ndarray, seen: np.ndarray) -> Content:
    """What is kept: ``in_use`` are categories, the others annotations; training sees those that are ``seen``."""
    images, categories, annotations, image, category = records
    counts = np.bincount(category[seen], minlength=len(categories))
    classes_shown, _ = class_image_pairs(category[seen], image[seen], len(images))
    _, image_counts = np.unique(classes_shown, return_counts=True)
    times = Counter(c['name'] for c in categories)
    names = [c['name'] if times[c['name']] == 1 else f'{c["name"]} (id {c["id"]})' for c in categories]
    return Content(
        categories,
        len(annotations),
        {name: int(n) for name, n, u in zip(names, counts, in_use) if u},
        int((image_counts <= LVIS_BOUNDS[0]).sum()),
        int(crowds.sum()),
        len(images),
        images,
        np.bincount(image[used], minlength=len(images)) > 0,
    )


def check_ground_truth(content: dict, findings: Findings, masks: bool) -> Annotations:
    """Check what ``FastLVISMetric`` reads of an annotation file, and only that; ``masks``: it compares masks.

    Returns the annotations.
    """
    records = collect_records(content, findings, needs_annotations=False)
    check_lvis_fields(records.images, records.categories, findings)
    _check_flag(records.annotations, 'ignore', findings)
    _check_metric_fields(records.annotations, False, findings)
    if masks:
        check_masks(records.annotations, records.sizes, required=True, evaluated=True, findings=findings)
    return records.annotations


def check_coco_ground_truth(content: dict, findings: Findings, masks: bool) -> Annotations:
    """Check what ``FastCocoMetric`` reads of an annotation file, and only that; ``masks``: it compares masks.

    Returns the annotations.
    """
    records = collect_records(content, findings, needs_annotations=False)
    check_integer_ids(records.images, records.categories, findings)
    _check_flag(records.annotations, 'ignore', findings)
    _check_crowd_flag(records.annotations, findings)
    _check_metric_fields(records.annotations, False, findings)
    if masks:
        check_masks(records.annotations, records.sizes, required=True, evaluated=True, findings=findings)
    return records.annotations


def check_images_and_categories(content: dict, findings: Findings) -> None:
    """Check what a streamed metric reads of an annotation file to write predictions without evaluating them."""
    records = collect_records(dict(content, annotations=[]), findings, needs_annotations=False)
    check_integer_ids(records.images, records.categories, findings)


def _check_flag(annotations: Annotations, key: str, findings: Findings) -> None:
    flags = getattr(annotations, key)
    is_wrong = [flag not in (None, 0, 1) for flag in flags]
    annotations.check(findings, 'invalid-flag', is_wrong, lambda i: brief(flags[i]), key=key)


def _check_crowd_flag(annotations: Annotations, findings: Findings, among: np.ndarray | None = None) -> None:
    is_wrong = [flag not in (0, 1) for flag in annotations.iscrowd]
    annotations.check(findings, 'missing-iscrowd', is_wrong, among=among)


def _check_crowds(
    annotations: Annotations, category: np.ndarray, used: np.ndarray, crowds: np.ndarray, findings: Findings
) -> None:
    """Report the ``crowds`` if they are more than COCO's: then an exporter marked single objects."""
    of_class, total = np.bincount(category[crowds]), np.bincount(category[used])
    of_few = (of_class > CROWD_SHARE_OF_CLASS * total[: len(of_class)]).any()
    if of_few or crowds.sum() > CROWD_SHARE * used.sum():
        annotations.check(findings, 'many-crowds', crowds, among=used)


def _check_boxes(records: Records, findings: Findings) -> np.ndarray:
    """Report odd boxes; which instances mmdet skips, by the rule of ``CocoDataset.parse_data_info``."""
    annotations, known, sizes = records.annotations, records.image >= 0, records.sizes
    area = annotations.areas
    ignored = np.array([bool(flag) for flag in annotations.ignore], bool)
    low, side = annotations.boxes[:, :2], annotations.boxes[:, 2:]
    inside = np.clip(np.minimum(low + side, sizes) - np.maximum(low, 0), 0, None).prod(1)
    flat = (side <= 0).any(1) | (area <= 0)
    outside = known & ((low < -1).any(1) | (low + side > sizes + 1).any(1))
    skipped = ignored | flat | (side < 1).any(1) | (known & (inside == 0))
    misread = outside.sum() > MISREAD_SHARE * len(annotations)
    code = 'boxes-misread' if misread else 'box-outside-image'
    annotations.check(findings, code, outside, share=MISREAD_SHARE)
    annotations.check(findings, 'empty-box', flat)
    annotations.check(findings, 'skipped-instance', skipped)
    return skipped


def _check_metric_fields(
    annotations: Annotations, keeps_ids: bool, findings: Findings, among: np.ndarray | None = None
) -> None:
    """Check ids and boxes; ``keeps_ids``: a metric identifies matches by the ids instead of renumbering."""
    ids = annotations.ids.tolist()
    if keeps_ids:
        is_wrong, meaning = [isinstance(i, str) or not 0 <= i < MAX_EXACT_ID for i in ids], 'from 1 to 2^53'
        annotations.check(findings, 'annotation-id-zero', [i == 0 for i in ids], among=among)
    else:
        is_wrong, meaning = [not is_integer_id(i) for i in ids], 'of 64 bits'
    annotations.check(findings, 'invalid-annotation-id', is_wrong, among=among, meaning=f'a whole number {meaning}')
    annotations.check(findings, 'negative-box', annotations.boxes[:, 2:].min(1, initial=0) < 0, among=among)


def check_lvis_fields(images: list[dict], categories: list[dict], findings: Findings) -> None:
    """Check what LVIS's metric needs beyond COCO's fields: classes known to be absent, and each class's frequency."""
    check_integer_ids(images, categories, findings)
    known = {c['id'] for c in categories}
    for key in ('neg_category_ids', 'not_exhaustive_category_ids'):
        findings.check('missing-negatives', images, [not isinstance(r.get(key), list) for r in images], key=key)
        named = [(r['id'], i) for r in images if isinstance(r.get(key), list) for i in r[key]]
        unknown = [(image, i) for image, i in named if not is_id(i) or i not in known]
        details = [brief(i) for _, i in unknown]
        findings.report('unknown-negative', [image for image, _ in unknown], len(images), details, key=key)
    findings.check('missing-frequency', categories, lambda c: c.get('frequency') not in ('r', 'c', 'f'), name='name')


def check_integer_ids(images: list[dict], categories: list[dict], findings: Findings) -> None:
    """Check what streamed metrics need beyond COCO's fields: ids of images and categories are numbers."""
    for kind, records in (('images', images), ('categories', categories)):
        findings.check('non-integer-id', records, lambda r: not is_integer_id(r['id']), records=kind)

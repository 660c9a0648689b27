"""Chooses what many objects in an image ask for: detections to keep and to count, and where anchors are assigned."""

from typing import Any, NamedTuple

from mmengine.config import Config

from apa_mmdet.evaluation.functional.coco_summary import MAP_LIMIT
from apa_mmdet.evaluation.functional.lvis_detections import MAX_PER_IMAGE

from . import rules
from .annotations import Source
from .schedule_choices import Machine


class ManyObjects(NamedTuple):
    """What follows from the images that have most objects.

    Attributes:
        model: differences to the model.
        metric: options.
        reserved: GiB of a GPU that the assignment of anchors takes.
        reasons, metric_reasons: sentences about the model and the metric.
    """

    model: dict[str, Any]
    metric: dict[str, Any]
    reserved: float
    reasons: list[str]
    metric_reasons: list[str]


def choose_for_objects(
    base: Config, train: Source, val: Source, machine: Machine, short: float, mask_classes: int
) -> ManyObjects:
    """Choose by the images of both files.

    Args:
        base: the model that the config starts from.
        train, val: the data.
        machine: of the training.
        short: short side of a median image as trained on.
        mask_classes: classes for which masks are predicted.
    """
    test_cfg, reasons = _detections(base, train, val, machine.memory, mask_classes)
    metric, metric_reasons = _metric(val, test_cfg['rcnn']['max_per_img'] if test_cfg else 0)
    train_cfg, reserved, assignment_reasons = _assignment(train.summary.most_objects, machine, short)
    model = {key: value for key, value in dict(train_cfg=train_cfg, test_cfg=test_cfg).items() if value}
    return ManyObjects(model, metric, reserved, [*reasons, *assignment_reasons], metric_reasons)


def _detections(
    base: Config, train: Source, val: Source, memory: float, mask_classes: int
) -> tuple[dict[str, Any], list[str]]:
    """``test_cfg``, empty if that of the base keeps enough."""
    most = max(train.summary.most_objects, val.summary.most_objects)
    if 2 * most <= base.test_cfg.rcnn.max_per_img:
        return {}, []
    pixels = max(source.summary.sides.prod(1).max() for source in (train, val))
    kept = min(rules.most_detections(pixels, memory, mask_classes), max(MAP_LIMIT, 2 * most))
    proposals = max(rules.PROPOSALS, rules.PROPOSALS_OF_DETECTION * kept)
    reasons = [f'An image has up to {most} objects: {kept} detections of each are kept, of {proposals} proposals.']
    if kept < 2 * most:
        by_time = kept == rules.MOST_DETECTIONS
        why = 'they would take long' if by_time else f'their masks would take a quarter of {memory:g} GiB'
        reasons.append(f'In tests no more are kept, since {why}: cut images of many objects into tiles.')
    return dict(rpn=dict(nms_pre=proposals, max_per_img=proposals), rcnn=dict(max_per_img=kept)), reasons


def _metric(val: Source, kept: int) -> tuple[dict[str, Any], list[str]]:
    """Options to count the ``kept`` detections of an image, where by default it counts fewer than there are objects."""
    most = val.summary.most_objects
    if most <= (MAX_PER_IMAGE if val.summary.is_lvis else MAP_LIMIT):
        return {}, []
    if val.summary.is_lvis:
        topk = max(rules.TOPK, 2 * int(val.summary.instances.max()))
        usual = f'AP of LVIS counts {MAX_PER_IMAGE} detections of an image, which has up to {most} objects'
        return dict(topk=topk), [f'{usual}: instead fixed AP, of the best {topk} detections of a class.']
    limit = max(rules.COUNTED, kept)
    options = dict(proposal_nums=(100, 300, limit)) if limit > rules.COUNTED else {}
    return dict(use_mp_eval=True, **options), [
        f'mAP of COCO counts {MAP_LIMIT} detections of an image and class; an image has up to {most} objects: {limit} '
        'count (use_mp_eval).'
    ]


def _assignment(most: int, machine: Machine, short: float) -> tuple[dict[str, Any], float, list[str]]:
    """``train_cfg`` if not all images can be assigned on a GPU, and the GiB that those take that can."""
    if machine.device == 'cpu':
        return {}, 0.0, []
    of_object = rules.assign_gib(rules.trained_pixels(short))
    threshold = int(rules.ASSIGN_SHARE * machine.memory / of_object)
    reserved = of_object * max(0, min(most, threshold) - rules.FEW_OBJECTS)
    if most <= threshold:
        return {}, reserved, []
    reason = (
        f'Assigning anchors to {most} objects would take {most * of_object:.0f} GiB of the GPU: for images of more '
        f'than {threshold} objects the CPU does it, in seconds (gpu_assign_thr).'
    )
    return dict(rpn=dict(assigner=dict(gpu_assign_thr=threshold))), reserved, [reason]

"""Chooses the settings of a new config by its data and the machine; each choice comes with its reason."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config

from apa_mmdet.datasets.annotation_summary import AnnotationSummary
from apa_mmdet.datasets.frequency_groups import group_classes
from apa_mmdet.utils.findings import show

from . import rules
from .annotations import Source
from .model_choices import ImageSize, choose_image_size, choose_model
from .object_choices import choose_for_objects
from .python_source import Expression
from .schedule_choices import Batch, Machine, Schedule, choose_batch, choose_schedule
from .weights import Start

LEAST_CLASSES = 9  # for thirds of them as frequency groups


class Choices(NamedTuple):
    """All that is chosen.

    Attributes:
        base: the config that it starts from.
        classes: names of the categories that are trained.
        masks: whether ``all``, ``some`` or ``none`` of the instances have one to learn from.
        size: of the images.
        model: differences to the model of the base.
        oversample: threshold of repeat factor sampling, None without.
        groups: options of ``frequency_groups`` but the file, None without.
        metric: its options by the number of objects.
        batch, schedule: of the training.
        reasons: sentences, by the part of the config that they are about.
    """

    base: str
    classes: list[str]
    masks: str
    size: ImageSize
    model: dict[str, Any]
    oversample: float | None
    groups: dict[str, Any] | None
    metric: dict[str, Any]
    batch: Batch
    schedule: Schedule
    reasons: dict[str, list[str]]


def choose(
    train: Source, val: Source, machine: Machine, start: Start, boxes: bool = False, epochs: int | None = None
) -> Choices:
    """Choose by the tables of :mod:`.rules`.

    Args:
        train, val: the data.
        machine: of the training.
        start: the weights that it starts from.
        boxes: learn no masks, even if there are some.
        epochs: instead of those of the table.
    """
    summary, reasons = train.summary, {}
    used = _used(summary, val.summary)
    classes = [name for name, is_used in zip(summary.names, used) if is_used]
    images = summary.class_images[used]
    masks = 'none' if boxes or not summary.masked else 'all' if summary.masked == 1 else 'some'
    tail = _tail(images, summary.annotated)
    rule = next(rule for rule in rules.LOSSES if rule.fits(tail))
    base = rule.bases['cpu' if machine.device == 'cpu' else 'gpu boxes' if masks == 'none' else 'gpu masks']
    cfg = Config.fromstring(f'_base_ = {base!r}', '.py')
    reasons['loss'] = [*_about_classes(summary, used, images), *_about_tail(tail, images, rule)]
    size, reasons['images'] = choose_image_size(summary, machine.device)
    model, reasons['model'] = choose_model(cfg.model, summary, start, rule, len(classes), masks, size.short)
    oversample = max(rules.OVERSAMPLED_SHARE, rules.OVERSAMPLED_IMAGES / summary.annotated) if tail.rare else None
    of_epoch = summary.repeats(oversample or 0.0)
    head = model['roi_head'].get('mask_head')
    mask_classes = 0 if not head else 1 if head.get('class_agnostic') else len(classes)
    many = choose_for_objects(cfg.model, train, val, machine, size.short, mask_classes)
    model.update(many.model)
    reasons['model'] += many.reasons
    batch, reasons['batch'] = choose_batch(
        summary.annotated, machine, start.kind, size.short, mask_classes, many.reserved
    )
    if oversample:
        reasons['batch'].append(
            f'Repeat factor sampling, for the rare classes: images of a class in fewer than '
            f'{100 * oversample:.3g}% of the images come more often, {of_epoch} images an epoch.'
        )
    schedule, reasons['schedule'] = choose_schedule(
        cfg, summary.annotated, of_epoch, val.summary.images, batch.of_step, machine, start, bool(tail.rare), epochs
    )
    groups, reasons['groups'] = _groups(images, val)
    reasons['groups'] += many.metric_reasons
    if masks != 'none' and not evaluates_masks(masks, val):
        share = 1 - val.summary.masked
        reasons['groups'].append(f'Masks are not evaluated: {share:.1%} of the validation instances have none.')
    return Choices(base, classes, masks, size, model, oversample, groups, many.metric, batch, schedule, reasons)


def evaluates_masks(masks: str, val: Source) -> bool:
    """Whether masks are evaluated, if ``masks`` says which instances learn one: a metric knows no missing ones."""
    return masks != 'none' and val.summary.masked == 1


def _used(train: AnnotationSummary, val: AnnotationSummary) -> np.ndarray:
    """Which categories become classes: in the LVIS form all; in COCO's those with an instance in either file."""
    if train.is_lvis or val.is_lvis:
        return np.ones(len(train.names), bool)
    validated = {name for name, number in zip(val.names, val.instances) if number}
    return (train.instances > 0) | np.array([name in validated for name in train.names], bool)


def _tail(images: np.ndarray, annotated: int) -> rules.Tail:
    rare = (images > 0) & (images <= rules.RARE_IMAGES) & (rules.RARE_RATIO * images <= images.max())
    return rules.Tail(int((images > 0).sum()), int(rare.sum()), annotated)


def _about_classes(summary: AnnotationSummary, used: np.ndarray, images: np.ndarray) -> Iterator[str]:
    empty = [name for name, is_used in zip(summary.names, used) if not is_used]
    names = [name for name, is_used in zip(summary.names, used) if is_used]
    unseen = [name for name, count in zip(names, images) if not count]
    if empty:
        yield f'Skipped, being without an instance: {_examples(empty)}.'
    if unseen:
        yield f'Without a training instance, so that they are not learned: {_examples(unseen)}.'


def _examples(names: list[str]) -> str:
    if len(names) <= 3:
        return ', '.join(map(show, names))
    return f'{len(names)} categories, {", ".join(map(show, names[:3]))}, …'


def _about_tail(tail: rules.Tail, images: np.ndarray, rule: rules.LossRule) -> Iterator[str]:
    seen = images[images > 0]
    yield (
        f'Classes appear in {seen.min()} to {seen.max()} training images; rare ones, in at most {rules.RARE_IMAGES} '
        f'and {rules.RARE_RATIO} times fewer than the most frequent: {tail.rare} of {tail.classes}.'
    )
    calibrated = ', scores calibrated by FRACAL' if rule.calibrated else ''
    yield f'Loss: {rule.loss}{calibrated}, {rule.because}.'


def _groups(images: np.ndarray, val: Source) -> tuple[dict[str, Any] | None, list[str]]:
    """Options of ``frequency_groups`` beside the file."""
    if val.summary.is_lvis:
        return None, [f'APr, APc, APf by the "frequency" of the categories in {val.path}.']
    groups = {name: int((group_classes(images) == name).sum()) for name in 'rcf'}
    if sum(map(bool, groups.values())) > 1:
        counts = f'{groups["r"]} rare, {groups["c"]} common, {groups["f"]} frequent classes'
        return {}, [f"APr, APc, APf by LVIS's bounds, 10 and 100 training images: {counts}."]
    if len(images) >= LEAST_CLASSES:
        thirds = (Expression('1 / 3'), Expression('2 / 3'))
        return dict(quantiles=thirds), ["APr, APc, APf of thirds of the classes: by LVIS's bounds all are alike."]
    return None, ['No APr, APc and APf: by the number of their images, the classes are alike.']

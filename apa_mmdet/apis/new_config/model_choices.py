"""Chooses the size of the images and the model."""

from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config

from apa_mmdet.datasets.annotation_summary import AnnotationSummary

from . import rules
from .weights import Start


class ImageSize(NamedTuple):
    """Transforms that resize images in training, where there are any, and in tests; the short side of the median."""

    train: list[dict]
    test: dict
    short: float


def choose_image_size(summary: AnnotationSummary, device: str) -> tuple[ImageSize, list[str]]:
    """The size, and why."""
    short, long = np.median(summary.sides.min(1)), np.median(summary.sides.max(1))
    largest = summary.sides.max()
    sizes = f'Images have {long:g}x{short:g} pixels in the median, at most {largest:g} on a side'
    width, height = rules.CPU_SCALE
    if device == 'cpu' and largest > width:
        resize = dict(type='Resize', scale=rules.CPU_SCALE, keep_ratio=True)
        factor = min(width / long, height / short)
        return ImageSize([resize], resize, short * factor), [f'{sizes}: made to fit {width}x{height}, for a CPU.']
    if device != 'cpu' and (short >= rules.SMALL_SIDE or largest > rules.LONG_SIDE):
        scales = [(rules.LONG_SIDE, side) for side in range(640, 801, 32)]
        train = dict(type='RandomChoiceResize', scales=scales, keep_ratio=True)
        test = dict(type='Resize', scale=scales[-1], keep_ratio=True)
        factor = min(rules.LONG_SIDE / long, 720 / short)
        text = f'{sizes}: short sides of 640 to 800 in training, as the recipes, and 800 in tests.'
        return ImageSize([train], test, short * factor), [text]
    unchanged = dict(type='Resize', scale_factor=1.0, keep_ratio=True)  # tests need a scale_factor
    return ImageSize([], unchanged, short), [f'{sizes}: they keep their size.']


def choose_model(
    base: Config, summary: AnnotationSummary, start: Start, rule: rules.LossRule, classes: int, masks: str, short: float
) -> tuple[dict[str, Any], list[str]]:
    """Differences to the model ``base``, and why; ``short`` is the short side of a median image as trained on."""
    reasons = [start.reason]
    bbox: dict[str, Any] = dict(type='LargeVocabularyBBoxHead', num_classes=classes)
    loss = base.roi_head.bbox_head.loss_cls
    if 'num_classes' in loss:
        bbox['loss_cls'] = dict(num_classes=classes)
    if loss.type == 'DropLoss':
        threshold = max(rules.DROPPED_SHARE, (rules.DROPPED_IMAGES + 0.5) / summary.annotated)
        bbox['loss_cls']['frequency_threshold'] = float(f'{threshold:.3g}')
        share = f'{100 * threshold:.3g}% of the {summary.annotated} annotated images'
        reasons.append(f'DropLoss drops most negatives of classes in fewer than {share}.')
    roi = dict(bbox_head=bbox, **_masks(base, masks, classes))
    model: dict[str, Any] = dict(backbone=start.backbone, roi_head=roi)
    if start.neck_channels:
        model['neck'] = dict(in_channels=start.neck_channels)
    if base.data_preprocessor.get('pool_padding_in_training'):  # as published for LVIS and V3Det
        model['data_preprocessor'] = dict(pool_padding_in_training=False)
    if masks == 'none':
        model['type'] = 'FasterRCNN'
        reasons.append('No masks: Faster R-CNN.')
    elif masks == 'some':
        reasons.append(f'{summary.masked:.1%} of the instances have a mask; of the others only boxes are learned.')
    if roi.get('mask_head') and 'class_agnostic' in roi['mask_head']:
        reasons.append('One mask for all classes: one for each would take gigabytes.')
    low, high = np.quantile(summary.object_sides * short, (0.1, 0.9))
    scale, least = (4, 16) if low < rules.SMALL_OBJECT and high <= rules.LARGE_OBJECT else (8, 32)
    model['rpn_head'] = dict(anchor_generator=dict(scales=[scale]))
    objects = f'Objects have {low:.0f} to {high:.0f} pixels as trained on (10th and 90th percentile of √area)'
    reasons.append(f'{objects}: anchors from {least} pixels on.')
    if rule.calibrated:
        model = dict(model, type='CalibrateScores', module=dict(type=model.get('type', base.type)))
        model['calibration'] = dict(type='FRACAL')
        reasons.append('FRACAL calibrates the scores in tests; a training is the same without it.')
        advice = f'image_demo.py --score-thr {rules.DRAWN_SCORE}'
        reasons.append(f'Calibrated scores are lower, most of frequent classes: {advice}.')
    return model, reasons


def _masks(base: Config, masks: str, classes: int) -> dict[str, Any]:
    """Settings of the RoI head for masks."""
    if masks == 'none':
        return dict(mask_roi_extractor=None, mask_head=None) if base.roi_head.get('mask_head') else {}
    head: dict[str, Any] = dict(num_classes=classes)
    if masks == 'some':
        head['type'] = 'PartiallyLabeledMaskHead'
    if classes >= rules.MANY_CLASSES:
        head['class_agnostic'] = True
    return dict(mask_head=head)

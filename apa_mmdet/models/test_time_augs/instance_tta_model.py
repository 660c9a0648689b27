"""Test-time augmentation of detectors and instance segmentation models."""

from typing import Any

import torch
from mmdet.models import DetTTAModel
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor

from apa_mmdet.models.layers import many_class_nms

AXES = dict(horizontal=(-1,), vertical=(-2,), diagonal=(-2, -1))  # of a mask that is flipped
PER_OBJECT = 'masks', 'mask_scores'


@MODELS.register_module()
class InstanceTTAModel(DetTTAModel):
    """Merges the detections of flipped and resized views of an image, by the rules of the model itself.

    mmdet's ``DetTTAModel`` refuses masks, and keeps ``tta_cfg.max_per_img`` detections, 100 where a config does not say
    otherwise, however many the model keeps. Here non-maximum suppression over the views of an image and the number of
    detections are those of the model's ``test_cfg``; a detection keeps the mask of the view that it is taken from,
    flipped back.

    Args:
        module: the model, or its config.
        tta_cfg: ``nms`` and ``max_per_img``, to set others than those of ``module.test_cfg``. A model without NMS, as
            DETR, gets IoU 0.5; one without ``max_per_img`` keeps as many detections as the richest view has. 0 or less
            is no limit, as everywhere in MMDetection.
        kwargs: of ``BaseTTAModel``.

    Example::

        tta_model = dict(type='InstanceTTAModel')  # with tools/test.py --tta; its default there
    """

    def __init__(self, module: Any, tta_cfg: dict | None = None, **kwargs: Any) -> None:
        super().__init__(module=module, **kwargs)
        test_cfg = getattr(self.module, 'test_cfg', None) or {}
        rules = test_cfg.get('rcnn') or test_cfg
        self.tta_cfg = ConfigDict(
            nms=rules.get('nms') or dict(type='nms', iou_threshold=0.5), max_per_img=rules.get('max_per_img')
        )
        self.tta_cfg.update(tta_cfg or {})

    def _merge_single_sample(self, data_samples: list[DetDataSample]) -> DetDataSample:
        """Merge the views of an image into the sample of an unflipped one, whose ground truth is as annotated."""
        views = [sample.pred_instances for sample in data_samples]
        result = next((sample for sample in data_samples if not sample.get('flip')), data_samples[0])
        boxes, scores = self.merge_aug_bboxes(
            [view.bboxes for view in views], [view.scores for view in views], [s.metainfo for s in data_samples]
        )
        merged = InstanceData(bboxes=boxes, scores=scores, labels=torch.cat([view.labels for view in views]))
        for key in (key for key in PER_OBJECT if all(key in view for view in views)):
            parts = [view[key] for view in views]
            if key == 'masks':
                parts = [_flip_back(masks, sample) for masks, sample in zip(parts, data_samples)]
            merged[key] = torch.cat(parts)
        if len(merged):
            kept, indices = many_class_nms(merged.bboxes, merged.scores, merged.labels, self.tta_cfg.nms)
            merged = merged[indices]
            merged.bboxes, merged.scores = kept[:, :-1], kept[:, -1]  # soft NMS lowers scores
        most = self.tta_cfg.max_per_img
        if most is None:
            most = max(map(len, views))
        result.pred_instances = merged[:most] if most > 0 else merged
        return result


def _flip_back(masks: Tensor, sample: DetDataSample) -> Tensor:
    return masks.flip(AXES[sample.flip_direction]) if sample.get('flip') else masks

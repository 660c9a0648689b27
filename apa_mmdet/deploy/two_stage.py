"""The stages of Faster and Mask R-CNN as functions of tensors without branches on data."""

import math

import torch
from mmdet.models.detectors import BaseDetector, SingleStageDetector, TwoStageDetector
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor

from apa_mmdet.utils.model import input_channels

from .operators import nms, roi_align, topk
from .stages import ExportPlan, Tensors, single_stage_plan
from .unsupported import FEATURES, NotExportable, check_two_stage

LOWEST = -1e38  # below every logit


def detector_plan(model: BaseDetector) -> ExportPlan:
    """All of a two-stage detector, or a single-stage one up to the maps of its head."""
    if isinstance(model, SingleStageDetector):
        return single_stage_plan(model)
    if isinstance(model, TwoStageDetector):
        return two_stage_plan(model)
    reason = f'{type(model).__name__} is neither a single-stage nor a two-stage detector; {FEATURES}'
    raise NotExportable('unsupported-detector', reason)


def two_stage_plan(model: TwoStageDetector) -> ExportPlan:
    """An image (1, C_in, H, W), its size → boxes (D, 4), scores, labels (D,), and masks (D, h, w) within the boxes."""
    check_two_stage(model)
    parts, results = TwoStage(model), ['boxes', 'scores', 'labels']
    stages = [parts.features, parts.proposals, parts.classified, parts.detections]
    if model.roi_head.with_mask:
        stages.append(parts.masks)
        results.append('masks')
    maps = [f'{kind}{level}' for kind in ('p', 'rpn_cls_p', 'rpn_bbox_p') for level in parts.levels]
    axes = {name: {2: f'height_{name}', 3: f'width_{name}'} for name in maps}
    axes.update(image={2: 'height', 3: 'width'}, **{name: {0: 'detections'} for name in results})
    axes.update({name: {0: 'proposals'} for name in ('proposals', 'roi_scores', 'roi_boxes')})
    options = dict(one_image=True, adjust=parts.fallback_scores, channels=input_channels(model))
    return ExportPlan(stages, tuple(results), axes, **options)


class TwoStage:
    """The stages of a two-stage detector on one image: mmdet's ``predict`` without its branches on data."""

    def __init__(self, model: TwoStageDetector) -> None:
        self.model, self.rpn, self.roi = model, model.rpn_head, model.roi_head
        self.roi_levels = self.roi.bbox_roi_extractor.num_inputs
        self.levels = [round(math.log2(stride[0])) for stride in self.rpn.prior_generator.strides]

    def features(self, values: Tensors) -> Tensors:
        maps = self.model.extract_feat(values['image'])
        scores, deltas = self.rpn(maps)
        named = dict(p=maps, rpn_cls_p=scores, rpn_bbox_p=deltas)
        return {f'{kind}{level}': t for kind, maps in named.items() for level, t in zip(self.levels, maps)}

    def proposals(self, values: Tensors) -> Tensors:
        cfg, scores, boxes = self.model.test_cfg.rpn, [], []
        maps = [values[f'rpn_cls_p{level}'] for level in self.levels]
        anchors = self.rpn.prior_generator.grid_priors([t.shape[-2:] for t in maps], device=maps[0].device)
        for level, logits, priors in zip(self.levels, maps, anchors):
            # by logits: sigmoids of many are equal, and either framework would rank them by its rounding
            logits, index = topk(logits.permute(0, 2, 3, 1).reshape(-1), cfg.nms_pre if cfg.nms_pre > 0 else 1 << 30)
            deltas = values[f'rpn_bbox_p{level}'].permute(0, 2, 3, 1).reshape(-1, 4)
            decoded = _clip(self.rpn.bbox_coder.decode(priors[index], deltas[index]), values['image_shape'])
            large = (decoded[:, 2:] - decoded[:, :2] > cfg.get('min_bbox_size', -1)).all(1)
            ranked = torch.where(large, logits, torch.full_like(logits, 2 * LOWEST))
            kept = nms(decoded[None], ranked[None, None], cfg.max_per_img, cfg.nms.iou_threshold, LOWEST)[:, 2]
            scores.append(logits[kept])
            boxes.append(decoded[kept])
        _, index = topk(torch.cat(scores), cfg.max_per_img)
        return dict(proposals=torch.cat(boxes)[index])

    def classified(self, values: Tensors) -> Tensors:
        """Scores (P, C) and boxes (P, K, 4) of the proposals."""
        head, rois = self.roi.bbox_head, _pad_one_row(values['proposals'])
        logits, deltas = head(self._roi_features(self.roi.bbox_roi_extractor, values, rois))
        scores = head.loss_cls.get_activation(logits) if head.custom_cls_channels else logits.softmax(1)
        per_roi = 1 if head.reg_class_agnostic else head.num_classes
        repeated = rois[:, None].expand(-1, per_roi, -1).reshape(-1, 4)
        boxes = _clip(head.bbox_coder.decode(repeated, deltas.reshape(-1, 4)), values['image_shape'])
        return dict(roi_scores=scores[:-1, :-1], roi_boxes=boxes.reshape(-1, per_roi, 4)[:-1])

    def detections(self, values: Tensors) -> Tensors:
        cfg, limit = self.model.test_cfg.rcnn, self.model.test_cfg.rcnn.max_per_img
        by_class, boxes = values['roi_scores'].t(), values['roi_boxes'].transpose(0, 1)
        # boxes for each class: a group for each; boxes for all: one group of all classes
        grouped = by_class[None] if boxes.shape[0] == 1 else by_class[:, None]
        kept = nms(boxes, grouped, limit, cfg.nms.iou_threshold, cfg.score_thr)
        labels = kept[:, 0] + kept[:, 1]  # one of them is 0
        scores, index = topk(by_class[labels, kept[:, 2]], limit)
        return dict(boxes=boxes[kept[:, 0], kept[:, 2]][index], scores=scores, labels=labels[index])

    def fallback_scores(self, values: Tensors) -> Tensors:
        """Scales the scores so that the highest is 1, where none passes the threshold."""
        if 'roi_scores' not in values or values['roi_scores'].max() > self.model.test_cfg.rcnn.score_thr:
            return {}
        return dict(roi_scores=values['roi_scores'] / values['roi_scores'].max())

    def masks(self, values: Tensors) -> Tensors:
        """Probability of each cell of a grid over the box."""
        head, labels = self.roi.mask_head, _pad_one_row(values['labels'])
        logits = head(self._roi_features(self.roi.mask_roi_extractor, values, _pad_one_row(values['boxes'])))
        own = logits[:, 0] if head.class_agnostic else logits[torch.arange(labels.shape[0]), labels]
        return dict(masks=own.sigmoid()[:-1])

    def _roi_features(self, extractor: SingleRoIExtractor, values: Tensors, rois: Tensor) -> Tensor:
        """Features of the RoIs (R, 4), each from its level of the pyramid."""
        levels = extractor.map_roi_levels(torch.cat([rois[:, :1], rois], 1), self.roi_levels)
        features, order = [], []
        for i, layer in enumerate(extractor.roi_layers):
            order.append((levels == i).nonzero().squeeze(1))
            size, samples = tuple(layer.output_size), max(0, layer.sampling_ratio)
            feature = values[f'p{self.levels[i]}']
            features.append(roi_align(feature, rois[order[i]], size, layer.spatial_scale, samples))
        return torch.cat(features)[torch.cat(order).argsort()]


def _pad_one_row(rows: Tensor) -> Tensor:
    """Adds a row of zeros: heads flatten, and ONNX's Reshape cannot infer a size if there is no row."""
    return torch.cat([rows, rows.new_zeros(1, *rows.shape[1:])])


def _clip(boxes: Tensor, image_shape: Tensor) -> Tensor:
    """Clips boxes (n, 4) to the image, whose height and width are ``image_shape``."""
    return torch.minimum(boxes.clamp(min=0), image_shape.flip(0).repeat(2)[None])

"""What of a detector goes into an ONNX file: stages, each a function of named tensors that is checked by itself.

Letters: N images, H x W their size, P proposals, C classes, K = C or, with class-agnostic boxes, 1; D detections.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from mmcv.ops import RoIAlign
from mmcv.ops.carafe import CARAFEPack
from mmdet.models.dense_heads import RPNHead
from mmdet.models.detectors import SingleStageDetector, TwoStageDetector
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from torch import Tensor, nn

from apa_mmdet.models.roi_heads import LargeVocabularyBBoxHead

from .operators import align, rank, suppress

Tensors = dict[str, Tensor]
PROBE = 256  # height and width of an image that tells what there is
LOWEST = -1e38  # below every logit


class NotExportable(ValueError):
    """A part of the model that cannot be exported; the line says which, and why."""


class Stage(NamedTuple):
    """``run(values)`` makes the tensors called ``gives`` from those called ``takes``.

    ``probe(values)``: some of the latter as the check is to have them, so that it has something to compare.
    """

    run: Callable[[Tensors], Tensors]
    takes: tuple[str, ...]
    gives: tuple[str, ...]
    probe: Callable[[Tensors], Tensors] = lambda values: {}


class Plan(NamedTuple):
    """Stages in order, the names of the results among all tensors, and which dimensions may vary, by tensor."""

    stages: list[Stage]
    results: tuple[str, ...]
    axes: dict[str, dict[int, str]]
    one_image: bool = False  # and its height and width as the second input


def backbone_plan(model: nn.Module) -> Plan:
    """Images (N, 3, H, W) → the maps of backbone and neck, p2 of stride 4, p3 of stride 8 and so on.

    Raises:
        NotExportable: if a layer has no operator in ONNX.
    """
    refuse_layers(model, 'backbone', 'neck')
    with torch.no_grad():
        sides = [t.shape[2] for t in feature_maps(model, torch.zeros(1, 3, PROBE, PROBE))]
    levels = [round(math.log2(PROBE / side)) for side in sides]
    names = [f'p{level}' if len(set(levels)) == len(levels) else f'map_{i}' for i, level in enumerate(levels)]
    return _one_stage(lambda values: dict(zip(names, feature_maps(model, values['image']))))


def single_stage_plan(model: SingleStageDetector) -> Plan:
    """Images (N, 3, H, W) → the maps of the head, named as in mmdet: cls_scores_0, …, bbox_preds_0, …

    Raises:
        NotExportable: if the head needs more than maps, or a layer has no operator in ONNX.
    """
    refuse_layers(model, 'backbone', 'neck', 'bbox_head')
    _refuse_changed(model, SingleStageDetector, '_forward', 'the detector')
    names = list(inspect.signature(model.bbox_head.predict_by_feat).parameters)

    def run(values: Tensors) -> Tensors:
        found = model.bbox_head(feature_maps(model, values['image']))
        kinds = found if isinstance(found[0], (list, tuple)) else (found,)  # one list of maps, or several
        return {f'{name}_{i}': t for name, maps in zip(names, kinds) for i, t in enumerate(maps)}

    return _one_stage(run)


def _one_stage(run: Callable[[Tensors], Tensors]) -> Plan:
    with torch.no_grad():
        names = tuple(run(dict(image=torch.zeros(1, 3, PROBE, PROBE))))
    maps = {name: {0: 'batch', 2: f'height_{name}', 3: f'width_{name}'} for name in names}
    return Plan([Stage(run, ('image',), names)], names, dict(image={0: 'batch', 2: 'height', 3: 'width'}, **maps))


def detector_plan(model: nn.Module) -> Plan:
    """All of a two-stage detector, or a single-stage one up to its head's maps.

    Raises:
        NotExportable: if the detector is of neither kind, or has a part that is not mmdet's own.
    """
    if isinstance(model, SingleStageDetector):
        return single_stage_plan(model)
    if isinstance(model, TwoStageDetector):
        return two_stage_plan(model)
    raise NotExportable(
        f'{type(model).__name__} is neither a single-stage detector with maps nor one with proposals and RoIs; '
        '--part backbone exports its features'
    )


def feature_maps(model: nn.Module, image: Tensor) -> list[Tensor]:
    maps = model.backbone(image)
    maps = model.neck(maps) if getattr(model, 'with_neck', False) else maps
    return list(maps) if isinstance(maps, (list, tuple)) else [maps]


def two_stage_plan(model: TwoStageDetector) -> Plan:
    """An image (1, 3, H, W) and its size → boxes (D, 4), scores and labels (D,), and masks (D, h, w) within the boxes.

    Raises:
        NotExportable: if a part is not one of those in whose terms the stages are written.
    """
    _refuse_parts(model)
    parts = TwoStage(model)
    maps = tuple(f'p{level}' for level in parts.levels)
    rpn = tuple(f'rpn_{kind}_p{level}' for kind in ('cls', 'bbox') for level in parts.levels)
    stages = [
        Stage(parts.features, ('image',), (*maps, *rpn)),
        Stage(parts.proposals, ('image_shape', *rpn), ('proposals',)),
        Stage(parts.classified, ('image_shape', 'proposals', *maps[: parts.inputs]), ('roi_scores', 'roi_boxes')),
        Stage(parts.detections, ('roi_scores', 'roi_boxes'), ('boxes', 'scores', 'labels'), parts.some_scores),
    ]
    results = ('boxes', 'scores', 'labels')
    if model.roi_head.with_mask:
        stages.append(Stage(parts.masks, ('boxes', 'labels', *maps[: parts.inputs]), ('masks',)))
        results += ('masks',)
    size = {name: {2: f'height_{name}', 3: f'width_{name}'} for name in (*maps, *rpn)}
    rows = {name: {0: 'detections'} for name in results}
    rows.update({name: {0: 'proposals'} for name in ('proposals', 'roi_scores', 'roi_boxes')})
    return Plan(stages, results, dict(image={2: 'height', 3: 'width'}, **size, **rows), one_image=True)


class TwoStage:
    """The stages of a two-stage detector on one image; what mmdet's ``predict`` computes, without its branches on data.

    Args:
        model: with the parts that :func:`two_stage_plan` lets pass.
    """

    def __init__(self, model: TwoStageDetector) -> None:
        self.model, self.rpn, self.roi = model, model.rpn_head, model.roi_head
        self.inputs = self.roi.bbox_roi_extractor.num_inputs
        self.levels = [round(math.log2(stride[0])) for stride in self.rpn.prior_generator.strides]

    def features(self, values: Tensors) -> Tensors:
        maps = feature_maps(self.model, values['image'])
        scores, deltas = self.rpn(maps)
        named = dict(p=maps, rpn_cls_p=scores, rpn_bbox_p=deltas)
        return {f'{kind}{level}': t for kind, found in named.items() for level, t in zip(self.levels, found)}

    def proposals(self, values: Tensors) -> Tensors:
        cfg, scores, boxes = self.model.test_cfg.rpn, [], []
        maps = [values[f'rpn_cls_p{level}'] for level in self.levels]
        anchors = self.rpn.prior_generator.grid_priors([t.shape[-2:] for t in maps], device=maps[0].device)
        for level, logits, priors in zip(self.levels, maps, anchors):
            # by logits: sigmoids of many are equal, and would be ranked by the rounding of either framework
            logits, index = rank(logits.permute(0, 2, 3, 1).reshape(-1), cfg.nms_pre if cfg.nms_pre > 0 else 1 << 30)
            deltas = values[f'rpn_bbox_p{level}'].permute(0, 2, 3, 1).reshape(-1, 4)
            found = _inside(self.rpn.bbox_coder.decode(priors[index], deltas[index]), values['image_shape'])
            large = (found[:, 2:] - found[:, :2] > cfg.get('min_bbox_size', -1)).all(1)
            ranked = torch.where(large, logits, torch.full_like(logits, 2 * LOWEST))
            kept = suppress(found[None], ranked[None, None], cfg.max_per_img, cfg.nms.iou_threshold, LOWEST)[:, 2]
            scores.append(logits[kept])
            boxes.append(found[kept])
        _, index = rank(torch.cat(scores), cfg.max_per_img)
        return dict(proposals=torch.cat(boxes)[index])

    def classified(self, values: Tensors) -> Tensors:
        """Scores (P, C) and boxes (P, K, 4) of the proposals."""
        head, rois = self.roi.bbox_head, _with_one_more(values['proposals'])
        logits, deltas = head(self._aligned(self.roi.bbox_roi_extractor, values, rois))
        scores = head.loss_cls.get_activation(logits) if head.custom_cls_channels else logits.softmax(1)
        kinds = 1 if head.reg_class_agnostic else head.num_classes
        repeated = rois[:, None].expand(-1, kinds, -1).reshape(-1, 4)
        boxes = _inside(head.bbox_coder.decode(repeated, deltas.reshape(-1, 4)), values['image_shape'])
        return dict(roi_scores=scores[:-1, :-1], roi_boxes=boxes.reshape(-1, kinds, 4)[:-1])

    def detections(self, values: Tensors) -> Tensors:
        cfg, limit = self.model.test_cfg.rcnn, self.model.test_cfg.rcnn.max_per_img
        by_class, boxes = values['roi_scores'].t(), values['roi_boxes'].transpose(0, 1)
        # boxes for each class: a group for each; boxes for all: one group of all classes
        grouped = by_class[None] if boxes.shape[0] == 1 else by_class[:, None]
        kept = suppress(boxes, grouped, limit, cfg.nms.iou_threshold, cfg.score_thr)
        labels = kept[:, 0] + kept[:, 1]  # one of them is 0
        scores, index = rank(by_class[labels, kept[:, 2]], limit)
        return dict(boxes=boxes[kept[:, 0], kept[:, 2]][index], scores=scores, labels=labels[index])

    def some_scores(self, values: Tensors) -> Tensors:
        """Where no score passes the threshold, the highest becomes 1."""
        highest = values['roi_scores'].max()
        enough = highest > self.model.test_cfg.rcnn.score_thr
        return {} if enough else dict(roi_scores=values['roi_scores'] / highest)

    def masks(self, values: Tensors) -> Tensors:
        """Probability of each pixel of a grid over the box."""
        head, labels = self.roi.mask_head, _with_one_more(values['labels'])
        logits = head(self._aligned(self.roi.mask_roi_extractor, values, _with_one_more(values['boxes'])))
        own = logits[:, 0] if head.class_agnostic else logits[torch.arange(labels.shape[0]), labels]
        return dict(masks=own.sigmoid()[:-1])

    def _aligned(self, extractor: SingleRoIExtractor, values: Tensors, rois: Tensor) -> Tensor:
        """Features of the RoIs (R, 4), each from its own level of the pyramid."""
        levels = extractor.map_roi_levels(torch.cat([rois[:, :1], rois], 1), self.inputs)
        found, order = [], []
        for i, layer in enumerate(extractor.roi_layers):
            order.append((levels == i).nonzero().squeeze(1))
            size, samples = tuple(layer.output_size), max(0, layer.sampling_ratio)
            feature = values[f'p{self.levels[i]}']
            found.append(align(feature, rois[order[i]], size, layer.spatial_scale, samples))
        return torch.cat(found)[torch.cat(order).argsort()]


def _with_one_more(rows: Tensor) -> Tensor:
    """A row of zeros after the others: heads flatten, and ONNX's Reshape cannot infer a size where there is no row."""
    return torch.cat([rows, rows.new_zeros(1, *rows.shape[1:])])


def _inside(boxes: Tensor, image_shape: Tensor) -> Tensor:
    """Boxes (n, 4) cut off at the image's border; ``image_shape`` is its height and width."""
    return torch.minimum(boxes.clamp(min=0), image_shape.flip(0).repeat(2)[None])


# ---------------------------------------------------------------- what is refused, before anything is recorded


def refuse_layers(model: nn.Module, *parts: str) -> None:
    """Raise NotExportable if a part has a layer of mmcv's own operators, other than RoIAlign and CARAFE."""
    for part in parts:
        for name, layer in getattr(model, part, nn.Identity()).named_modules():
            kinds = [kind for kind in type(layer).__mro__ if kind.__module__.startswith('mmcv.ops')]
            if kinds and not isinstance(layer, (RoIAlign, CARAFEPack)):
                raise NotExportable(f'{part}.{name} is a {kinds[0].__name__} of mmcv, which ONNX has no operator for')


def _refuse_changed(part: object, kind: type, method: str, called: str) -> None:
    if getattr(type(part), method) is not getattr(kind, method):
        raise NotExportable(
            f'{called}, {type(part).__name__}, has a {method} of its own instead of that of {kind.__name__}; '
            '--part backbone exports the features'
        )


def _refuse_parts(model: TwoStageDetector) -> None:
    refuse_layers(model, 'backbone', 'neck', 'rpn_head', 'roi_head')
    rpn, roi = model.rpn_head, model.roi_head
    _refuse_changed(model, TwoStageDetector, 'predict', 'the detector')
    _refuse_changed(rpn, RPNHead, '_predict_by_feat_single', 'rpn_head')
    _refuse_changed(rpn, RPNHead, '_bbox_post_process', 'rpn_head')
    for method in ('predict', 'predict_bbox', 'predict_mask', '_bbox_forward', '_mask_forward'):
        _refuse_changed(roi, StandardRoIHead, method, 'roi_head')
    if not isinstance(roi.bbox_head, LargeVocabularyBBoxHead):  # it computes the same
        _refuse_changed(roi.bbox_head, BBoxHead, '_predict_by_feat_single', 'bbox_head')
    if roi.with_mask:
        _refuse_changed(roi.mask_head, FCNMaskHead, 'predict_by_feat', 'mask_head')
    for reason in _unusual(model):
        raise NotExportable(f'{reason}; --part backbone exports the features')


def _unusual(model: TwoStageDetector) -> Iterator[str]:
    rpn, roi = model.rpn_head, model.roi_head
    if roi.with_shared_head:
        yield 'roi_head has a shared_head'
    if not roi.bbox_head.with_reg or not rpn.use_sigmoid_cls:
        yield 'bbox_head does not regress boxes, or rpn_head scores by softmax'
    if type(rpn.prior_generator) is not AnchorGenerator:
        yield f'rpn_head has a {type(rpn.prior_generator).__name__} instead of an AnchorGenerator'
    for head in (rpn, roi.bbox_head):
        if type(head.bbox_coder) is not DeltaXYWHBBoxCoder or not head.bbox_coder.clip_border:
            yield f'{type(head).__name__} has a {type(head.bbox_coder).__name__}, or one that does not clip boxes'
    for extractor in (roi.bbox_roi_extractor, *([roi.mask_roi_extractor] if roi.with_mask else [])):
        layers = [] if type(extractor) is not SingleRoIExtractor else extractor.roi_layers
        if not layers or not all(isinstance(t, RoIAlign) and t.aligned and t.pool_mode == 'avg' for t in layers):
            yield f'{type(extractor).__name__} is no SingleRoIExtractor of aligned, averaging RoIAlign'
    for name in ('rpn', 'rcnn'):
        nms = dict(model.test_cfg[name].nms)
        if nms.pop('type', 'nms') != 'nms' or set(nms) - {'iou_threshold', 'split_thr'}:
            yield f'test_cfg.{name}.nms asks for more than an IoU threshold'
        if model.test_cfg[name].max_per_img <= 0:
            yield f'test_cfg.{name}.max_per_img sets no limit'

"""Rejects models that cannot be exported, before anything is recorded."""

from collections.abc import Iterator

from mmcv.ops import RoIAlign
from mmcv.ops.carafe import CARAFEPack
from mmdet.models.dense_heads import RPNHead
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from torch import nn

from apa_mmdet.models.roi_heads import LargeVocabularyBBoxHead
from apa_mmdet.utils.errors import CodedError

FEATURES = '--part backbone exports the features'


class NotExportable(CodedError):
    """Raised for a model, or options, that cannot be exported; the message names the part and the reason.

    Codes: ``no-backbone``, ``unsupported-detector``, ``unsupported-layer``, ``changed-method``,
    ``unsupported-setting``, ``one-image-only``, ``foreign-operator`` and ``torchscript-only``.
    """


def check_layers(model: nn.Module, *parts: str) -> None:
    """Raises NotExportable if a part has a layer of mmcv's own operators other than RoIAlign and CARAFE."""
    for part in parts:
        for name, layer in getattr(model, part, nn.Identity()).named_modules():
            types = [cls for cls in type(layer).__mro__ if cls.__module__.startswith('mmcv.ops')]
            if types and not isinstance(layer, (RoIAlign, CARAFEPack)):
                reason = f"{part}.{name} is mmcv's {types[0].__name__}, for which ONNX has no operator"
                raise NotExportable('unsupported-layer', reason)


def check_two_stage(model: TwoStageDetector) -> None:
    """Raises NotExportable if a part computes something else than the one whose stages ``two_stage.py`` implements."""
    check_layers(model, 'backbone', 'neck', 'rpn_head', 'roi_head')
    rpn, roi = model.rpn_head, model.roi_head
    check_methods(model, TwoStageDetector, 'the detector', 'predict')
    check_methods(rpn, RPNHead, 'rpn_head', '_predict_by_feat_single', '_bbox_post_process')
    roi_methods = ('predict', 'predict_bbox', 'predict_mask', '_bbox_forward', '_mask_forward')
    check_methods(roi, StandardRoIHead, 'roi_head', *roi_methods)
    if not isinstance(roi.bbox_head, LargeVocabularyBBoxHead):  # it computes the same
        check_methods(roi.bbox_head, BBoxHead, 'bbox_head', '_predict_by_feat_single')
    if roi.with_mask:
        check_methods(roi.mask_head, FCNMaskHead, 'mask_head', 'predict_by_feat')
    for reason in _unsupported_settings(model):
        raise NotExportable('unsupported-setting', f'{reason}; {FEATURES}')


def check_methods(part: object, base: type, name: str, *methods: str) -> None:
    """Raises NotExportable if a part overrides a method of its base class that the stages implement."""
    for method in methods:
        if getattr(type(part), method) is not getattr(base, method):
            reason = f'{name}, {type(part).__name__}, overrides {method} of {base.__name__}; {FEATURES}'
            raise NotExportable('changed-method', reason)


def _unsupported_settings(model: TwoStageDetector) -> Iterator[str]:
    rpn, roi = model.rpn_head, model.roi_head
    if roi.with_shared_head:
        yield 'roi_head has a shared_head'
    if not roi.bbox_head.with_reg or not rpn.use_sigmoid_cls:
        yield 'bbox_head does not regress boxes, or rpn_head scores by softmax'
    if type(rpn.prior_generator) is not AnchorGenerator:
        yield f'rpn_head has a {type(rpn.prior_generator).__name__} instead of an AnchorGenerator'
    for head in (rpn, roi.bbox_head):
        if type(head.bbox_coder) is not DeltaXYWHBBoxCoder or not head.bbox_coder.clip_border:
            yield f'{type(head).__name__} has a {type(head.bbox_coder).__name__} instead of a clipping delta coder'
    for extractor in (roi.bbox_roi_extractor, *([roi.mask_roi_extractor] if roi.with_mask else [])):
        layers = [] if type(extractor) is not SingleRoIExtractor else extractor.roi_layers
        if not layers or not all(isinstance(t, RoIAlign) and t.aligned and t.pool_mode == 'avg' for t in layers):
            yield f'{type(extractor).__name__} is not a SingleRoIExtractor of aligned, averaging RoIAlign'
    for name in ('rpn', 'rcnn'):
        nms = dict(model.test_cfg[name].nms)
        if nms.pop('type', 'nms') != 'nms' or set(nms) - {'iou_threshold', 'split_thr'}:
            yield f'test_cfg.{name}.nms has other settings than an IoU threshold'
        if model.test_cfg[name].max_per_img <= 0:
            yield f'test_cfg.{name}.max_per_img sets no limit'

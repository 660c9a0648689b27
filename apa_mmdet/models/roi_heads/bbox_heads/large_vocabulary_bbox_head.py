"""Letters: N RoIs of an image, C classes, K candidates (box and class) above the score threshold."""

import torch
from mmcv.ops import batched_nms
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor


@MODELS.register_module()
class LargeVocabularyBBoxHead(Shared2FCBBoxHead):
    """mmdet's Shared2FCBBoxHead whose NMS needs little memory with very many classes; its results are the same.

    mmdet's NMS spreads boxes and labels over all N·C pairs before it looks at the scores, seven times the memory of
    the logits; this one looks at the scores first, and spreads the K candidates alone. That is a quarter more than the
    scores themselves where one pair in a thousand is a candidate, as with a trained classifier; one with random weights
    may take a fifth of all pairs for candidates, and five times the scores. Arguments as of ``Shared2FCBBoxHead``.
    """

    def _predict_by_feat_single(
        self,
        roi: Tensor,
        cls_score: Tensor,
        bbox_pred: Tensor | None,
        img_meta: dict,
        rescale: bool = False,
        rcnn_test_cfg: ConfigDict | None = None,
    ) -> InstanceData:
        """Boxes (M, 4), scores and labels (M,) of one image; with no ``rcnn_test_cfg`` all boxes and scores."""
        if rcnn_test_cfg is None or len(roi) == 0:
            return super()._predict_by_feat_single(roi, cls_score, bbox_pred, img_meta, rescale, rcnn_test_cfg)
        every = super()._predict_by_feat_single(roi, cls_score, bbox_pred, img_meta, rescale)
        scores = every.scores[:, :-1]
        index, labels = (scores > rcnn_test_cfg.score_thr).nonzero().unbind(1)
        boxes = every.bboxes.view(len(scores), -1, self.bbox_coder.encode_size)
        boxes = boxes[index, 0 if boxes.size(1) == 1 else labels]
        dets, keep = _nms(boxes, scores[index, labels], labels, rcnn_test_cfg.nms, rcnn_test_cfg.max_per_img)
        return InstanceData(bboxes=dets[:, :-1], scores=dets[:, -1], labels=labels[keep])


def _nms(boxes: Tensor, scores: Tensor, labels: Tensor, cfg: dict, limit: int):
    """Boxes with their scores (M, 5), and which of the K they are."""
    if len(boxes) == 0:
        return torch.cat([boxes, scores[:, None]], 1), labels
    dets, keep = batched_nms(boxes, scores, labels, cfg)
    return (dets[:limit], keep[:limit]) if limit > 0 else (dets, keep)

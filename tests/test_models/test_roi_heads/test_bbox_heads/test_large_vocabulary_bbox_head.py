"""LargeVocabularyBBoxHead gives the detections of mmdet's head in less memory."""

import pytest
import torch
from helpers.memory import memory_of
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope

from apa_mmdet.models.roi_heads import LargeVocabularyBBoxHead

CFG = ConfigDict(score_thr=0.1, nms=dict(type='nms', iou_threshold=0.5), max_per_img=20)
META = dict(img_shape=(100, 120), scale_factor=(2.0, 2.0))


def head_of(head_type, classes, **options):
    with DefaultScope.overwrite_default_scope('mmdet'):
        return head_type(in_channels=2, fc_out_channels=4, roi_feat_size=2, num_classes=classes, **options)


def inputs(rois, classes, agnostic):
    boxes = torch.rand(rois, 4) * 60
    boxes[:, 2:] += boxes[:, :2] + 4
    deltas = torch.randn(rois, 4 if agnostic else 4 * classes)
    return torch.cat([torch.zeros(rois, 1), boxes], 1), torch.randn(rois, classes + 1) * 3, deltas


@pytest.mark.parametrize('agnostic', [True, False])
@pytest.mark.parametrize(
    'rois, cfg',
    [
        (40, CFG),
        (1, CFG),
        (0, CFG),
        (40, None),
        (40, ConfigDict(CFG, score_thr=1.0)),
        (40, ConfigDict(CFG, max_per_img=-1)),
    ],
)
def test_detections_match_mmdet(agnostic, rois, cfg):
    given = inputs(rois, 6, agnostic)
    ours, theirs = (
        head_of(head_type, 6, reg_class_agnostic=agnostic)._predict_by_feat_single(*given, META, True, cfg)
        for head_type in (LargeVocabularyBBoxHead, Shared2FCBBoxHead)
    )
    assert set(ours.keys()) == set(theirs.keys())
    for key in ours.keys():  # noqa: SIM118  iterated, it is its instances
        assert torch.equal(ours[key], theirs[key]), key
    assert cfg is not CFG or rois < 40 or len(ours) == 20


def test_detections_without_box_regression_match_mmdet():
    roi, scores, _ = inputs(40, 6, True)
    ours, theirs = (
        head_of(head_type, 6, with_reg=False)._predict_by_feat_single(roi, scores, None, META, True, CFG)
        for head_type in (LargeVocabularyBBoxHead, Shared2FCBBoxHead)
    )
    assert len(ours) == 20 and torch.equal(ours.bboxes, theirs.bboxes) and torch.equal(ours.labels, theirs.labels)


def test_scores_of_custom_losses_match_mmdet():
    given = inputs(30, 6, True)
    given = (given[0], given[1][:, :6], given[2])
    loss = dict(type='DropLoss', num_classes=6, link='gumbel')
    ours, theirs = (
        head_of(head_type, 6, reg_class_agnostic=True, loss_cls=loss)._predict_by_feat_single(*given, META, True, CFG)
        for head_type in (LargeVocabularyBBoxHead, Shared2FCBBoxHead)
    )
    assert len(ours) > 0 and torch.equal(ours.bboxes, theirs.bboxes) and torch.equal(ours.labels, theirs.labels)


def test_peak_memory_of_13204_classes_is_twice_the_scores():
    head = head_of(LargeVocabularyBBoxHead, 13204, reg_class_agnostic=True)
    roi, scores, deltas = inputs(100, 13204, True)
    cfg = ConfigDict(score_thr=1e-4, nms=dict(type='nms', iou_threshold=0.6), max_per_img=300)
    scores *= 4  # as peaked as a classifier's: one pair in a thousand is a candidate
    call = lambda: head._predict_by_feat_single(roi, scores, deltas, META, True, cfg)  # noqa: E731
    assert len(call()) == 300 and memory_of(call, roi.device).peak <= 2 * scores.nbytes

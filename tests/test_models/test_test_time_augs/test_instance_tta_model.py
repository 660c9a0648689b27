"""Detections of flipped views are merged by the model's own rules, and masks are flipped back."""

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import nn

from apa_mmdet.models.test_time_augs import InstanceTTAModel

HEIGHT, WIDTH = 20, 30


class Detector(nn.Module):
    """A model that only has rules."""

    def __init__(self, **rules):
        super().__init__()
        self.test_cfg = rules or None

    def test_step(self, data):
        return data


def view(boxes, scores, flip=None, labels=None):
    """Predictions as a model gives them for a view: boxes and masks lie in the image as it was flipped."""
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    masks = torch.zeros(len(boxes), HEIGHT, WIDTH, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
        mask[y1:y2, x1:x2] = True
    metainfo = dict(ori_shape=(HEIGHT, WIDTH), flip=flip is not None, flip_direction=flip)
    labels = torch.zeros(len(boxes), dtype=torch.long) if labels is None else torch.tensor(labels)
    instances = InstanceData(bboxes=boxes, scores=torch.tensor(scores), labels=labels, masks=masks)
    return DetDataSample(metainfo=metainfo, pred_instances=instances)


@pytest.mark.parametrize(
    'direction, box', [('horizontal', [18, 2, 28, 9]), ('vertical', [2, 11, 12, 18]), ('diagonal', [18, 11, 28, 18])]
)
def test_boxes_and_masks_of_flipped_views_are_flipped_back(direction, box):
    seen, flipped = view([[2, 2, 12, 9]], [0.6]), view([box, [0, 0, 5, 5]], [0.8, 0.3], direction)
    (merged,) = InstanceTTAModel(Detector()).merge_preds([[flipped, seen]])
    instances = merged.pred_instances
    assert instances.scores.tolist() == pytest.approx([0.8, 0.3]) and not merged.flip
    assert instances.bboxes[0].tolist() == [2, 2, 12, 9]
    assert torch.equal(instances.masks[0], seen.pred_instances.masks[0])


def test_the_model_decides_how_many_detections_are_kept():
    boxes = [[3 * i, 0, 3 * i + 2, 2] for i in range(9)]
    nms = dict(type='nms', iou_threshold=0.5)

    def kept(rules, **kwargs):
        views = [[view(boxes, [0.5] * 9), view([[0, 9, 5, 15]], [0.9], 'horizontal')]]
        return len(InstanceTTAModel(Detector(**rules), **kwargs).merge_preds(views)[0].pred_instances)

    assert kept(dict(rcnn=dict(nms=nms, max_per_img=7))) == 7 and kept(dict(nms=nms, max_per_img=10)) == 10
    assert kept({}) == 9  # as the richest view
    assert kept(dict(rcnn=dict(nms=nms, max_per_img=-1))) == kept({}, tta_cfg=dict(max_per_img=0)) == 10  # no limit
    assert kept(dict(rcnn=dict(nms=nms, max_per_img=7)), tta_cfg=dict(max_per_img=2)) == 2


@pytest.mark.parametrize('threshold, labels', [(0.95, [0, 0, 1]), (0.5, [0, 1])])
def test_the_models_nms_merges_only_detections_of_one_class(threshold, labels):
    seen, flipped = view([[0, 0, 10, 10]], [0.9]), view([[20, 0, 30, 9]], [0.8], 'horizontal')
    rules = dict(rcnn=dict(nms=dict(type='nms', iou_threshold=threshold), max_per_img=10))
    views = [[seen, flipped, view([[0, 0, 10, 10]], [0.7], labels=[1])]]
    assert InstanceTTAModel(Detector(**rules)).merge_preds(views)[0].pred_instances.labels.tolist() == labels


def test_views_without_detections_give_none():
    (merged,) = InstanceTTAModel(Detector()).merge_preds([[view([], []), view([], [], 'horizontal')]])
    assert len(merged.pred_instances) == 0 and merged.pred_instances.masks.shape == (0, HEIGHT, WIDTH)

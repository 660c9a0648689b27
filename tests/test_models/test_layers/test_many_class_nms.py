"""many_class_nms gives the detections of mmcv's loop over classes, by few calls of NMS."""

import pytest
import torch
from mmcv.ops import batched_nms, nms

from apa_mmdet.models.layers import many_class_nms

CFG = dict(type='nms', iou_threshold=0.6)


def candidates(objects, around=10, classes=13204):
    """Boxes around objects of a few pixels, where the rounding by mmcv's shifts decides, in no order."""
    corner, size = torch.rand(objects, 1, 2) * 800, torch.rand(objects, 1, 2) * 60 + 4
    boxes = torch.cat([corner, corner + size], 2).expand(objects, around, 4)
    boxes = (boxes + torch.randn(objects, around, 4) * size.repeat(1, 1, 2) / 10).clamp(0, 900).reshape(-1, 4)
    labels = torch.randint(0, classes, (objects, 1)).expand(objects, around).reshape(-1)
    order, scores = torch.randperm(len(boxes)), torch.randperm(len(boxes)) / len(boxes)  # no two are equal
    return boxes[order], scores, labels[order]


def assert_same(given, ours, theirs):
    (dets, keep), (expected_dets, expected) = many_class_nms(*given, ours), batched_nms(*given, theirs)
    assert 0 < len(keep) <= len(given[0])
    assert torch.equal(keep, expected) and torch.equal(dets, expected_dets)


@pytest.mark.parametrize(
    'cfg',
    [
        CFG,
        dict(CFG, max_num=7),
        dict(CFG, score_threshold=0.5),
        dict(CFG, offset=1),
        dict(type='soft_nms', iou_threshold=0.3, min_score=0.05),
        dict(type='soft_nms', iou_threshold=0.3, method='gaussian'),
    ],
)
def test_detections_equal_those_of_the_loop_over_classes(cfg):
    given = candidates(250)
    assert_same(given, dict(cfg, split_thr=300), dict(cfg, split_thr=0))


def test_detections_equal_those_of_one_nms_over_all():
    given = candidates(300)
    assert_same(given, CFG, CFG)
    assert_same(given, dict(CFG, split_thr=10), CFG)


def test_equal_scores_of_classes_keep_the_order_of_the_candidates():
    boxes = candidates(300)[0]
    _, keep = many_class_nms(boxes, torch.full((3000,), 0.5), torch.randperm(3000), CFG)
    assert keep.tolist() == list(range(3000))


@pytest.mark.parametrize('split_thr', [1, 10**6])
def test_class_agnostic_nms_compares_all_classes(split_thr):
    boxes, scores, labels = candidates(30)
    cfg = dict(CFG, class_agnostic=True)
    assert_same((boxes, scores, labels), dict(cfg, split_thr=split_thr), cfg)
    assert_same((boxes, scores, labels % 2), cfg, cfg)


def test_without_nms_or_candidates():
    given = candidates(20)
    assert_same(given, None, None)
    dets, keep = many_class_nms(*(values[:0] for values in given), CFG)
    assert dets.shape == (0, 5) and keep.shape == (0,) and keep.dtype == torch.long


def test_twenty_thousand_candidates_take_few_calls_of_bounded_size():
    calls = []

    def counted(boxes, scores, **options):
        calls.append(len(boxes))
        return nms(boxes, scores, **options)

    boxes, scores, labels = candidates(2000)
    labels[:1500] = 9  # a class with more than a group
    many_class_nms(boxes, scores, labels, dict(CFG, type=counted))
    assert sum(calls) == 20000 and max(calls) >= 1500 and len(calls) <= 24
    assert sorted(calls)[-2] <= 1024

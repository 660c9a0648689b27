import pytest
import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict

from apa_mmdet.models.dense_heads import PaddingAwareRPNHead

SHAPES = (64, 96), (96, 32)  # of images; a batch has 96 x 96


def head(cls=PaddingAwareRPNHead):
    torch.manual_seed(0)
    anchors = dict(type='AnchorGenerator', scales=[2], ratios=[0.5, 1.0], strides=[8, 16])
    test_cfg = dict(nms_pre=100, max_per_img=12, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0)
    return cls(in_channels=4, feat_channels=4, anchor_generator=anchors, test_cfg=ConfigDict(test_cfg)).eval()


def samples(*shapes):
    return [DetDataSample(metainfo=dict(img_shape=s, pad_shape=s, scale_factor=(1.0, 1.0))) for s in shapes]


def maps(*shapes):
    """Of images padded to one size; the padding is not 0, as behind a neck."""
    size = [max(side) for side in zip(*shapes)]
    levels = [torch.randn(len(shapes), 4, size[0] // s, size[1] // s) * 30 for s in (8, 16)]
    return [
        levels,
        *([m[i : i + 1, :, : h // s, : w // s] for m, s in zip(levels, (8, 16))] for i, (h, w) in enumerate(shapes)),
    ]


@torch.no_grad()
def test_an_image_has_the_proposals_that_it_has_alone():
    both, *alone = maps(*SHAPES)
    got = head().predict(tuple(both), samples(*SHAPES))
    assert len(got) == 2
    for i, one in enumerate(alone):
        (want,) = head(RPNHead).predict(tuple(one), samples(SHAPES[i]))
        assert torch.equal(got[i].bboxes, want.bboxes) and torch.equal(got[i].scores, want.scores)
    stock = head(RPNHead).predict(tuple(both), samples(*SHAPES))
    assert any(a.scores.shape != b.scores.shape or not torch.equal(a.scores, b.scores) for a, b in zip(got, stock))


@torch.no_grad()
@pytest.mark.parametrize('metas', [samples((64, 96), (64, 96)), [DetDataSample(metainfo=dict(img_shape=(64, 96)))] * 2])
def test_images_of_one_size_are_predicted_as_in_mmdet(metas):
    both, *_ = maps((64, 96), (64, 96))
    got, want = (head(cls).predict(tuple(both), metas) for cls in (PaddingAwareRPNHead, RPNHead))
    for a, b in zip(got, want):
        assert torch.equal(a.bboxes, b.bboxes) and torch.equal(a.scores, b.scores)

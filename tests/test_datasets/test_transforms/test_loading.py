"""Instances with a box but without a mask: they load, and train only the box head."""

import numpy as np
import pytest
import torch
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomFlip
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from pycocotools import mask as mask_utils

from apa_mmdet.datasets.transforms import LoadPartialMaskAnnotations
from apa_mmdet.utils.findings import ValidationError

SQUARE = [[1, 1, 5, 1, 5, 5, 1, 5]]
RLE = mask_utils.frPyObjects(SQUARE, 8, 10)[0]
RLE = dict(size=RLE['size'], counts=RLE['counts'].decode())
MISSING = [
    {},
    dict(mask=[]),
    dict(mask=None),
    dict(mask=[[1, 2, 3, 4]]),
    dict(mask=[[1, 2, 3, 4, 5]]),
    dict(mask=dict(size=[8, 10], counts=None)),
    dict(mask=dict(counts='abc')),
]


def loaded(masks, **options):
    instances = [dict(bbox=[1, 1, 5, 5], bbox_label=i, ignore_flag=0) | mask for i, mask in enumerate(masks)]
    return LoadPartialMaskAnnotations(with_bbox=True, **options)(
        dict(ori_shape=(8, 10), img_path='a.jpg', instances=instances)
    )


@pytest.mark.parametrize('mask', MISSING)
@pytest.mark.parametrize('poly2mask', [True, False])
def test_a_missing_mask_has_no_pixel_and_its_box_stays(mask, poly2mask):
    results = loaded([dict(mask=SQUARE), mask], poly2mask=poly2mask)
    assert results['gt_masks'].areas.tolist() == [16, 0]
    assert len(results['gt_bboxes']) == 2 and not results['gt_ignore_flags'].any()


def test_present_masks_are_those_of_mmdet():
    uncompressed = dict(size=[8, 10], counts=[9, 4, 4, 4, 59])
    masks = [dict(mask=m) for m in (SQUARE, SQUARE * 2, RLE, uncompressed)]
    ours, theirs = loaded(masks), None
    instances = [dict(bbox=[1, 1, 5, 5], bbox_label=0, ignore_flag=0, **mask) for mask in masks]
    theirs = LoadAnnotations(with_bbox=True, with_mask=True)(dict(ori_shape=(8, 10), instances=instances))
    assert np.array_equal(ours['gt_masks'].masks, theirs['gt_masks'].masks)
    assert ours['gt_masks'].areas.tolist() == [16, 16, 16, 8]


def test_crowds_stay_ignored():
    results = LoadPartialMaskAnnotations(with_bbox=True)(
        dict(ori_shape=(8, 10), img_path='a.jpg', instances=[dict(bbox=[1, 1, 5, 5], bbox_label=0, ignore_flag=1)])
    )
    packed = PackDetInputs(meta_keys=())(
        dict(RandomFlip(prob=1.0)(dict(results, img=np.zeros((8, 10, 3)), img_shape=(8, 10))))
    )
    assert len(packed['data_samples'].ignored_instances) == 1 and len(packed['data_samples'].gt_instances) == 0


@pytest.mark.parametrize(
    'mask, code',
    [
        (dict(RLE, size=[8, 9]), 'mask-size'),
        (dict(size=[8, 10], counts=[5]), 'mask-runs'),
        ([[1, 1, 5, 1, 5, float('nan')]], 'mask-out-of-range'),
        ([1, 1, 5, 1, 5, 5], 'invalid-mask'),
    ],
)
def test_an_invalid_mask_is_refused_with_its_image_and_instance(mask, code):
    with pytest.raises(ValidationError, match=r'^a\.jpg: .*: 1 of 2, e\.g\. instance 1; ') as error:
        loaded([dict(mask=SQUARE), dict(mask=mask)])
    assert error.value.code == code


def test_polygons_and_run_lengths_do_not_mix():
    with pytest.raises(ValueError, match=r'a\.jpg: poly2mask=False reads only polygons'):
        loaded([dict(mask=RLE)], poly2mask=False)
    masks = loaded([dict(mask=SQUARE), dict(mask=RLE, ignore_flag=1)], poly2mask=False)['gt_masks']
    assert masks.areas.tolist() == [16, 0]


def test_no_instances():
    assert len(loaded([])['gt_masks']) == 0


# ---------------------------------------------------------------- the head


@pytest.fixture
def heads():
    heads = []
    for kind in ('PartiallyLabeledMaskHead', 'FCNMaskHead'):
        torch.manual_seed(1)
        with DefaultScope.overwrite_default_scope('mmdet'):
            heads.append(
                MODELS.build(
                    dict(
                        type=kind,
                        num_convs=1,
                        in_channels=3,
                        conv_out_channels=4,
                        num_classes=9,
                        class_agnostic=True,
                        loss_mask=dict(type='CrossEntropyLoss', use_mask=True),
                    )
                )
            )
    return heads


def batch(masks_of_images, rois):
    """Sampling results, and ground truth with the masks; each RoI is a box on instance ``i`` of its image."""
    samples, truth = [], []
    for masks, indices in zip(masks_of_images, rois):
        truth.append(InstanceData(masks=loaded(masks)['gt_masks']))
        boxes = torch.tensor([[0.0, 0.0, 6.0, 6.0]]).repeat(len(indices), 1) + torch.arange(len(indices))[:, None] * 0.3
        assigned = torch.tensor(indices, dtype=torch.long)
        samples.append(InstanceData(pos_priors=boxes, pos_assigned_gt_inds=assigned, pos_gt_labels=assigned))
    return samples, truth


CFG = ConfigDict(mask_size=28)


def test_rois_without_a_mask_take_no_part(heads):
    ours, theirs = heads
    some, none = dict(mask=SQUARE), {}
    samples, truth = batch([[some, none, some], [none], [some]], [[0, 1, 2, 1], [0, 0], [0]])
    features = torch.randn(7, 3, 14, 14)
    got = ours.loss_and_target(ours(features), samples, truth, CFG)
    samples, truth = batch([[some, none, some], [], [some]], [[0, 1, 2, 1], [], [0]])
    samples[0] = samples[0][[0, 2]]
    expected = theirs.loss_and_target(theirs(features[[0, 2, 6]]), samples, truth, CFG)
    torch.testing.assert_close(got['loss_mask']['loss_mask'], expected['loss_mask']['loss_mask'])
    assert torch.equal(got['mask_targets'], expected['mask_targets']) and got['mask_targets'].any()
    got['loss_mask']['loss_mask'].sum().backward()
    expected['loss_mask']['loss_mask'].sum().backward()
    for a, b in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(a.grad, b.grad)


def test_without_any_mask_the_loss_is_zero_and_reaches_every_parameter(heads):
    samples, truth = batch([[{}]], [[0, 0]])
    loss = heads[0].loss_and_target(heads[0](torch.randn(2, 3, 14, 14)), samples, truth, CFG)['loss_mask']['loss_mask']
    loss.backward()
    assert loss == 0 and all(p.grad is not None and (p.grad == 0).all() for p in heads[0].parameters())

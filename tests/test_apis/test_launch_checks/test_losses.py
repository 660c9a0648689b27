import pytest
from mmengine.config import Config

from apa_mmdet.apis.launch_checks.launch import Launch
from apa_mmdet.apis.launch_checks.losses import check_losses
from apa_mmdet.apis.launch_checks.validate_launch import check_launch

DROP = dict(type='DropLoss', num_classes=3, class_frequency=[0.5, 0.5, 0.5])
SEESAW = dict(type='SeesawLoss', num_classes=3)
EQL = dict(type='BBoxHeadEQLV2Loss', num_classes=3)
CROSS = dict(type='MemoryEfficientCrossEntropyLoss')
ROI = dict(num_classes=3, in_channels=4, fc_out_channels=4, roi_feat_size=2)


def found(model, tool='train.py'):
    findings = check_launch(Launch(tool, Config(dict(model=model))), [check_losses])
    return [(finding.code, *finding.ids) for finding in findings], ' '.join(map(str, findings))


@pytest.mark.parametrize(
    'model',
    [
        dict(bbox_head=dict(type='RetinaHead', loss_cls=DROP)),
        dict(bbox_head=dict(type='FCOSHead', loss_cls=DROP)),
        dict(bbox_head=dict(type='SwapActivations', module=dict(type='RetinaHead'), loss_cls=DROP)),
        dict(bbox_head=dict(type='mmdet.CalibrateScores', module=dict(type='RetinaHead'), loss_cls=DROP)),
        dict(bbox_head=dict(type='DoubleConvFCBBoxHead', num_convs=1, num_fcs=1, loss_cls=DROP, **ROI)),
        dict(bbox_head=dict(type='DIIHead', num_classes=3, in_channels=8, num_heads=1, loss_cls=DROP)),
    ],
)
def test_drop_loss_in_a_head_that_has_a_channel_for_background(model):
    codes, text = found(model)
    assert codes == [('loss-in-wrong-head', 'model.bbox_head.loss_cls')]
    assert (
        f'DropLoss cannot train {model["bbox_head"].get("module", model["bbox_head"])["type"]}; it works only as loss_cls of'
        in text
    )


@pytest.mark.parametrize('loss', [SEESAW, EQL])
def test_other_losses_with_scores_of_their_own_need_a_bbox_head(loss):
    codes, text = found(dict(bbox_head=dict(type='RetinaHead', loss_cls=loss)))
    assert codes == [('loss-in-wrong-head', 'model.bbox_head.loss_cls')] and 'loss_cls of a BBoxHead' in text


def test_mmdets_eqlv2_is_scored_by_a_softmax_in_a_bbox_head():
    loss = dict(type='EQLV2Loss', num_classes=3)
    head = dict(type='Shared2FCBBoxHead', loss_cls=loss, **ROI)
    assert found(dict(bbox_head=head))[0] == [('softmax-scores', 'model.bbox_head.loss_cls')]
    for other in (dict(head, loss_cls=EQL), dict(type='SomebodyElses', loss_cls=loss)):
        assert found(dict(bbox_head=other))[0] == []


@pytest.mark.parametrize('loss', [DROP, CROSS])
def test_a_loss_of_classes_that_is_given_masks_or_boxes(loss):
    assert found(dict(mask_head=dict(type='FCNMaskHead', loss_mask=loss)))[0] == [
        ('loss-in-wrong-head', 'model.mask_head.loss_mask')
    ]


@pytest.mark.parametrize(
    'model',
    [
        dict(roi_head=dict(bbox_head=dict(type='Shared2FCBBoxHead', loss_cls=DROP, **ROI))),
        dict(
            roi_head=dict(
                bbox_head=[
                    dict(type='LargeVocabularyBBoxHead', loss_cls=loss, **ROI) for loss in (DROP, SEESAW, EQL, CROSS)
                ]
            )
        ),
        dict(bbox_head=dict(type='RetinaHead', loss_cls=CROSS)),
        dict(bbox_head=dict(type='RetinaHead', loss_cls=dict(type='FocalLoss'))),
        dict(bbox_head=dict(type='SomebodyElses', loss_cls=DROP)),
        dict(bbox_head=None),
        None,
    ],
)
def test_a_loss_where_it_works_or_nothing_is_known(model):
    assert found(model)[0] == []


def test_drop_loss_without_frequencies_is_for_tests_alone():
    model = dict(
        roi_head=dict(bbox_head=dict(type='Shared2FCBBoxHead', loss_cls=dict(DROP, class_frequency=None), **ROI))
    )
    assert found(model)[0] == [('no-class-frequency', 'model.roi_head.bbox_head.loss_cls')]
    assert found(model, 'test.py')[0] == []


def test_a_loss_in_a_cascade_is_named_as_an_option_takes_it():
    head = dict(type='Shared2FCBBoxHead', loss_cls=dict(DROP, class_frequency=None), **ROI)
    model = dict(roi_head=dict(bbox_head=[head, head]))
    codes, text = found(model)
    settings = [f'model.roi_head.bbox_head.{i}.loss_cls' for i in range(2)]
    assert codes == [('no-class-frequency', setting) for setting in settings]
    cfg = Config(dict(model=model))
    cfg.merge_from_dict({f'{setting}.class_frequency': [0.5] * 3 for setting in settings})
    assert found(cfg.model.to_dict())[0] == []

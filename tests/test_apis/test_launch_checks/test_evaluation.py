"""What the metrics, --tta or the drawing of images would fail on is reported before a start."""

import pytest
from mmengine.config import Config

from apa_mmdet.apis.launch_checks.evaluation import check_palette, check_several_datasets, check_tta
from apa_mmdet.apis.launch_checks.launch import Launch
from apa_mmdet.apis.launch_checks.validate_launch import check_launch

LVIS = dict(type='FastLVISMetric', ann_file='d/a.json')
COCO = dict(type='CocoMetric', ann_file='d/a.json')
ONE = dict(type='CocoDataset', data_root='d/', ann_file='a.json')
TWO = dict(type='ConcatDataset', datasets=[ONE, dict(ONE, ann_file='b.json')])


def codes(check, cfg, tool='test.py', **launch):
    findings = check_launch(Launch(tool, Config(cfg), **launch), [check])
    return [finding.code for finding in findings]


def evaluated(dataset, evaluator, **loader):
    return dict(test_dataloader=dict(dataset=dataset, **loader), test_evaluator=evaluator)


@pytest.mark.parametrize(
    'cfg, found',
    [
        (evaluated(ONE, LVIS), []),
        (evaluated(TWO, dict(type='ConcatDatasetEvaluator', metrics=[[LVIS, COCO], COCO])), []),
        (evaluated(TWO, dict(type='MultiDatasetsEvaluator', metrics=[COCO, COCO])), []),
        (evaluated(TWO, dict(type='MultiDatasetsEvaluator', metrics=[COCO, LVIS])), ['streamed-metric']),
        (evaluated(TWO, dict(type='ConcatDatasetEvaluator', metrics=[LVIS])), ['metrics-per-dataset']),
        (evaluated(ONE, dict(type='ConcatDatasetEvaluator', metrics=[LVIS])), ['metrics-per-dataset']),
        (
            evaluated(
                TWO, dict(type='ConcatDatasetEvaluator', metrics=[LVIS, LVIS]), sampler=dict(type='DefaultSampler')
            ),
            ['shuffled-evaluation'],
        ),
        (evaluated(TWO, [COCO, dict(type='Own')]), ['metric-of-one-dataset']),
        (evaluated(TWO, dict(COCO, ann_file='d/both.json')), []),  # of the images of both
        (evaluated(None, 'odd'), []),
        (dict(test_dataloader=dict(dataset=dict(type='Own', datasets=[{}])), test_evaluator=[dict(type='x.Y')]), []),
        ({}, []),
    ],
)
def test_several_data_sets_need_metrics_of_their_own(cfg, found):
    assert codes(check_several_datasets, cfg) == found


def test_training_looks_at_the_validation_set():
    cfg = dict(val_dataloader=dict(dataset=TWO), val_evaluator=LVIS)
    assert codes(check_several_datasets, cfg, 'train.py') == ['metric-of-one-dataset']
    assert codes(check_several_datasets, cfg, 'test.py') == []


MASKS = dict(roi_head=dict(mask_head=dict(type='FCNMaskHead')), test_cfg=dict(rcnn=dict(max_per_img=300)))
BOXES = dict(roi_head=dict(mask_head=None), test_cfg=dict(rcnn=dict(max_per_img=300)))
UNLIMITED = dict(BOXES, test_cfg=dict(rcnn=dict(max_per_img=-1)))


@pytest.mark.parametrize(
    'model, tta_model, dataset, found',
    [
        (MASKS, dict(type='InstanceTTAModel'), dict(ONE, pipeline=[]), []),
        (MASKS, dict(type='DetTTAModel', tta_cfg=dict(max_per_img=300)), ONE, ['tta-without-masks']),
        (BOXES, dict(type='DetTTAModel', tta_cfg=dict(max_per_img=100)), ONE, ['tta-max-per-img']),
        (BOXES, dict(type='DetTTAModel', tta_cfg=dict(max_per_img=300)), ONE, []),
        (UNLIMITED, dict(type='DetTTAModel', tta_cfg=dict(max_per_img=300)), ONE, ['tta-max-per-img']),
        (BOXES, dict(type='InstanceTTAModel'), TWO, ['tta-wrapped-dataset']),
        (BOXES, dict(type='OwnTTAModel'), ONE, []),
        (None, None, None, []),
    ],
)
def test_views_can_be_made_and_merged(model, tta_model, dataset, found):
    cfg = dict(model=model, tta_model=tta_model, test_dataloader=dict(dataset=dataset))
    assert codes(check_tta, cfg, tta=True) == found and codes(check_tta, cfg) == []


def test_mmdets_visualizer_needs_a_color_for_each_class():
    def cfg(count, visualizer='DetLocalVisualizer', **extra):
        dataset = dict(ONE, metainfo=dict(classes=tuple(map(str, range(count))), **extra))
        return dict(test_dataloader=dict(dataset=dataset), visualizer=dict(type=visualizer))

    assert codes(check_palette, cfg(90), draws=True) == ['short-palette'] and codes(check_palette, cfg(90)) == []
    drawing = dict(cfg(90), default_hooks=dict(visualization=dict(type='DetVisualizationHook', draw=True)))
    assert codes(check_palette, drawing) == ['short-palette']
    for fine in (cfg(80), cfg(90, 'LegibleVisualizer'), cfg(90, palette='random'), cfg(90, 'Own'), {}):
        assert codes(check_palette, fine, draws=True) == []

import pytest
from mmengine.config import Config

from apa_mmdet.apis.launch_checks.launch import Launch
from apa_mmdet.apis.launch_checks.metrics import check_metrics
from apa_mmdet.apis.launch_checks.validate_launch import check_launch

LVIS = dict(type='FastLVISMetric', metric=['bbox', 'segm'])
COCO = dict(type='CocoMetric', metric='bbox')
GROUPS = dict(COCO, type='FastCocoMetric', frequency_groups=dict(ann_file='train.json'))

CITIES = dict(
    type='ConcatDatasetEvaluator',
    metrics=[[COCO, LVIS], [dict(LVIS, classwise=True), dict(type='ShotAccuracy')]],
    dataset_prefixes=['city', 'country'],
)


def found(evaluator, tool='train.py', checkpoint=None, custom=(), schedule=(), loader=True):
    cfg = Config(
        dict(
            val_evaluator=evaluator,
            val_dataloader=dict(dataset=dict()) if loader else None,
            default_hooks=dict(checkpoint=checkpoint or dict(type='CheckpointHook')),
            custom_hooks=list(custom),
            param_scheduler=list(schedule),
        )
    )
    findings = check_launch(Launch(tool, cfg), [check_metrics])
    return findings


def codes(*args, **kwargs):
    return [finding.code for finding in found(*args, **kwargs)]


def atomic(save_best, **more):
    return dict(type='AtomicCheckpointHook', save_best=save_best, **more)


@pytest.mark.parametrize(
    'evaluator, key',
    [
        (LVIS, 'auto'),
        (LVIS, 'lvis/segm_AP'),
        (LVIS, ['lvis/bbox_APr', 'lvis/segm_AP50']),
        (dict(LVIS, prefix='mine'), 'mine/segm_AP'),
        (dict(LVIS, type='LVISMetric', classwise=True), 'lvis/apple_precision'),
        (dict(COCO, metric=['bbox', 'proposal', 'proposal_fast'], proposal_nums=(7,)), ['coco/AR_s@1000', 'coco/AR@7']),
        (dict(COCO, metric_items=['mAP_s']), 'coco/bbox_mAP_s'),
        (GROUPS, ['coco/bbox_APr', 'coco/bbox_mAP_50']),
        (dict(GROUPS, metric='proposal', use_mp_eval=True, proposal_nums=[300]), ['coco/AR@100', 'coco/AR_s@1000']),
        ([COCO, LVIS], 'lvis/segm_AP'),
        (dict(type='MultiDatasetsEvaluator', metrics=[COCO, COCO], dataset_prefixes=['a', 'b']), 'b/coco/bbox_mAP'),
        (CITIES, ['city/coco/bbox_mAP', 'city/lvis/bbox_AP', 'country/lvis/segm_AP', 'country/lvis/apple_precision']),
        (CITIES, 'country/accuracy/top5'),
    ],
)
def test_a_metric_that_the_validation_gives(evaluator, key):
    assert codes(evaluator, checkpoint=atomic(key)) == []


@pytest.mark.parametrize(
    'evaluator, key',
    [
        (LVIS, 'lvis/segm_mAP'),
        (dict(GROUPS, frequency_groups=None), 'coco/bbox_APr'),
        (dict(GROUPS, metric='proposal', use_mp_eval=True, proposal_nums=[300]), 'coco/AR@300'),
        (LVIS, 'segm_AP'),
        (LVIS, 'lvis/apple_precision'),
        (dict(LVIS, metric='bbox'), 'lvis/segm_AP'),
        (dict(LVIS, format_only=True), 'lvis/segm_AP'),
        (dict(COCO, metric_items=['mAP_s']), 'coco/bbox_mAP'),
        (CITIES, 'country/coco/bbox_mAP'),
        (CITIES, 'lvis/bbox_AP'),
        (CITIES, 'accuracy/top5'),
    ],
)
def test_a_metric_that_the_validation_does_not_give(evaluator, key):
    (finding,) = found(evaluator, checkpoint=atomic(key))
    assert (finding.code, finding.ids, finding.severity) == ('unknown-metric-key', (key,), 'error')


def test_the_keys_that_are_possible_are_named_the_overall_precision_first():
    (finding,) = found(dict(LVIS, classwise=True), checkpoint=atomic('AP'))
    text = (
        'default_hooks.checkpoint.save_best is AP, which the validation does not give; it gives lvis/segm_AP, lvis/bbox'
    )
    assert text in finding.message and 'lvis/NAME_precision' in finding.message


def test_a_metric_of_others_is_a_warning():
    (finding,) = found([COCO, dict(type='CityScapesMetric')], checkpoint=atomic('cityscapes/x'))
    assert (finding.code, finding.severity) == ('unchecked-metric-key', 'warning')


def test_mmengines_hook_needs_a_rule_for_lvis_and_not_for_coco():
    hook = dict(type='CheckpointHook', save_best='lvis/segm_AP')
    (finding,) = found(LVIS, checkpoint=hook)
    assert finding.code == 'wrong-rule' and 'set default_hooks.checkpoint.rule=greater' in finding.message
    assert codes(LVIS, checkpoint=dict(hook, save_best='auto')) == ['wrong-rule']
    assert codes(LVIS, checkpoint=dict(hook, rule='greater')) == []
    assert codes(COCO, checkpoint=dict(hook, save_best='coco/bbox_mAP')) == []
    assert codes(COCO, checkpoint=dict(hook, save_best='auto')) == []
    assert codes(LVIS, checkpoint=atomic('lvis/segm_AP', rule='less')) == ['wrong-rule']


def test_early_stopping_needs_rule_and_min_delta():
    hook = dict(type='EarlyStoppingHook', monitor='lvis/segm_AP')
    assert codes(LVIS, custom=[hook]) == ['wrong-rule', 'large-min-delta']
    assert codes(LVIS, custom=[dict(hook, rule='greater', min_delta=0.001)]) == []
    assert codes(COCO, custom=[hook]) == ['unknown-metric-key']


def test_a_schedule_that_waits_for_a_lower_precision():
    scheduler = dict(type='ReduceOnPlateauLR', monitor='coco/bbox_mAP')
    assert codes(COCO, schedule=[scheduler]) == ['wrong-rule']
    assert codes(COCO, schedule=[dict(scheduler, rule='greater')]) == []
    assert codes(COCO, schedule=[dict(type='ReduceOnPlateauLR')]) == ['unknown-metric-key']  # of loss


def test_without_validation_nothing_is_best():
    assert codes(LVIS, checkpoint=atomic('auto'), loader=False) == ['no-validation']
    assert codes(LVIS, tool='test.py', checkpoint=atomic('nonsense')) == []

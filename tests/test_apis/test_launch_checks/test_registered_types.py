"""Names and arguments of what a config builds late, checked before a start."""

import pytest
from helpers.annotations import codes
from helpers.paths import ROOT
from mmengine.config import Config

from apa_mmdet.apis.launch_checks.launch import Launch
from apa_mmdet.apis.launch_checks.registered_types import check_registered_types
from apa_mmdet.apis.launch_checks.validate_launch import InvalidLaunch, check_launch, validate_launch

FLIP, FLOP = dict(type='RandomFlip', prob=0.5), dict(type='RandomFlop', prob=0.5)
LEAF = 'train_dataloader.dataset'
CITIES = dict(type='ConcatDatasetEvaluator', dataset_prefixes=['city'])


def findings_about(tool='train.py', tta=False, **cfg):
    findings = check_launch(Launch(tool, Config(cfg), tta=tta), [check_registered_types])
    return findings


def pipeline(*transforms):
    """A data loader with these transforms."""
    return dict(dataset=dict(type='CocoDataset', pipeline=list(transforms)))


def misspelled(wrap, **kwargs):
    """The settings in which RandomFlop is reported; with RandomFlip there is no finding."""
    assert findings_about(**wrap(FLIP), **kwargs) == []
    findings = findings_about(**wrap(FLOP), **kwargs)
    assert {f.code for f in findings} == {'unknown-type'}
    assert all('no transform RandomFlop is registered, but RandomFlip is; ' in f.message for f in findings)
    return [f.ids[0] for f in findings]


@pytest.mark.parametrize(
    'wrap, setting',
    [
        (lambda t: t, 'pipeline.0'),
        (lambda t: dict(type='RandomApply', transforms=[FLIP, t]), 'pipeline.0.transforms.1'),
        (lambda t: dict(type='RandomChoice', transforms=[[FLIP], [FLIP, t]]), 'pipeline.0.transforms.1.1'),
        (lambda t: dict(type='mmdet.RandomOrder', transforms=[t]), 'pipeline.0.transforms.0'),
        (lambda t: dict(type='AutoAugment', policies=[[t]]), 'pipeline.0.policies.0.0'),
        (lambda t: dict(type='MultiBranch', branch_field=['a'], a=[t]), 'pipeline.0.a.0'),
    ],
)
def test_a_misspelled_transform_is_found_in_transforms_that_hold_others(wrap, setting):
    assert misspelled(lambda t: dict(train_dataloader=pipeline(wrap(t)))) == [f'{LEAF}.{setting}']


@pytest.mark.parametrize(
    'wrap, setting',
    [
        (lambda t: dict(type='MultiImageMixDataset', dataset=dict(type='CocoDataset'), pipeline=[t]), '.pipeline.0'),
        (
            lambda t: dict(
                type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[dict(pipeline=[t])])
            ),
            '.dataset.datasets.0.pipeline.0',
        ),
    ],
)
def test_a_misspelled_transform_is_found_in_wrappers_of_data_sets(wrap, setting):
    assert misspelled(lambda t: dict(train_dataloader=dict(dataset=wrap(t)))) == [LEAF + setting]


def test_a_misspelled_transform_is_found_in_the_pipeline_that_a_hook_switches_to():
    hook = 'PipelineSwitchHook'
    switched = misspelled(lambda t: dict(custom_hooks=[dict(type=hook, switch_epoch=1, switch_pipeline=[t])]))
    assert switched == ['custom_hooks.0.switch_pipeline.0']


def test_only_what_the_tool_uses_is_checked():
    cfg = dict(test_dataloader=pipeline(FLOP), tta_pipeline=[dict(type='TestTimeAug', transforms=[[FLOP], [FLIP]])])
    assert findings_about('train.py', **cfg) == []
    assert codes(findings_about('test.py', **cfg)) == [('unknown-type', ('test_dataloader.dataset.pipeline.0',))]
    assert [f.ids[0] for f in findings_about('test.py', True, **cfg)] == [
        'test_dataloader.dataset.pipeline.0',
        'tta_pipeline.0.transforms.0.0',
    ]


@pytest.mark.parametrize(
    'cfg, kind, setting',
    [
        (dict(train_dataloader=dict(dataset=dict(type='CoccoDataset'))), 'dataset', LEAF),
        (dict(train_dataloader=dict(sampler=dict(type='DefaultSampeler'))), 'data sampler', 'train_dataloader.sampler'),
        (dict(train_dataloader=dict(batch_sampler=dict(type='A'))), 'data sampler', 'train_dataloader.batch_sampler'),
        (dict(custom_hooks=[dict(type='EMAHok')]), 'hook', 'custom_hooks.0'),
        (dict(default_hooks=dict(logger=dict(type='LogerHook'))), 'hook', 'default_hooks.logger'),
        (dict(val_evaluator=dict(type='CocoMetrik')), 'metric', 'val_evaluator'),
        (dict(val_evaluator=dict(metrics=[dict(type='A')])), 'metric', 'val_evaluator.metrics.0'),
        (dict(val_evaluator=dict(type='A', metrics=[])), 'evaluator', 'val_evaluator'),
        (dict(val_evaluator=dict(CITIES, metrics=[[dict(type='A')]])), 'metric', 'val_evaluator.metrics.0.0'),
        (dict(val_evaluator=[dict(type='CocoMetric'), dict(type='A')]), 'metric', 'val_evaluator.1'),
        (dict(train_cfg=dict(type='EpochLoop')), 'loop', 'train_cfg'),
        (dict(optim_wrapper=dict(type='AmpWrapper')), 'optimizer wrapper', 'optim_wrapper'),
        (dict(optim_wrapper=dict(optimizer=dict(type='SDG'))), 'optimizer', 'optim_wrapper.optimizer'),
        (dict(param_scheduler=[dict(type='CosineLR')]), 'parameter scheduler', 'param_scheduler.0'),
    ],
)
def test_other_misspelled_types(cfg, kind, setting):
    (finding,) = findings_about(**cfg)
    assert (finding.code, finding.ids) == ('unknown-type', (setting,)) and f'{setting}: no ' in finding.message


@pytest.mark.parametrize(
    'transform, reason',
    [
        (dict(type='RandomFlip', probe=0.5), "an unexpected keyword argument 'probe'"),
        (dict(type='RandomApply'), "missing a required argument: 'transforms'"),
        (dict(type='LoadPartialMaskAnnotations', with_bbox=True), None),  # passes what it gets on
        (dict(type='Albu', transforms=[dict(type='HorizontalFlip', p=0.5)]), None),  # of another registry
        (dict(type=dict), None),
    ],
)
def test_arguments_that_a_transform_does_not_take(transform, reason):
    findings = findings_about(train_dataloader=pipeline(transform))
    assert codes(findings) == [('invalid-arguments', (f'{LEAF}.pipeline.0',))] * bool(reason)
    assert all(reason in finding.message for finding in findings)


def test_arguments_that_a_data_loader_does_not_take():
    loader = dict(
        batch_size=2, num_workers=0, persistent_workers=False, num_batch_per_epoch=3, collate_fn=dict(type='a')
    )
    assert findings_about(train_dataloader=loader) == []
    (finding,) = findings_about(train_dataloader=dict(loader, batch_sise=2))
    assert (finding.code, finding.ids) == ('invalid-arguments', ('train_dataloader',))
    assert 'perhaps batch_size is meant' in finding.message


def test_an_evaluator_is_built_with_metrics_and_prefixes():
    assert findings_about(val_evaluator=dict(CITIES, metrics=[[dict(type='CocoMetric')]])) == []
    findings = findings_about(val_evaluator=dict(type='MultiDatasetsEvaluator', metrics=[]))
    assert codes(findings) == [('invalid-arguments', ('val_evaluator',))]


@pytest.mark.parametrize(
    'cfg',
    [
        {},
        dict(train_dataloader=None, val_dataloader=[], default_hooks=3, custom_hooks=None, optim_wrapper='a'),
        dict(train_dataloader=dict(dataset=3, sampler=dict(shuffle=True)), param_scheduler=dict(a=[1])),
        dict(default_scope='nowhere', custom_hooks=[dict(type='A')]),  # of a package that is not installed
        dict(train_dataloader=pipeline(7, dict(prob=1))),
    ],
)
def test_a_config_of_another_form_has_no_findings(cfg):
    assert findings_about(**cfg) == []


@pytest.mark.parametrize('path', ['tiny_lvis/mask_rcnn_se_r18_apa.py', 'any_detector/rtmdet_tiny_aglu.py'])
def test_valid_configs_have_no_findings(path):
    cfg = Config.fromfile(ROOT / 'configs' / path)
    assert [findings_about(tool, **cfg) for tool in ('train.py', 'test.py')] == [[], []]


def test_a_start_with_a_misspelled_transform_is_refused():
    with pytest.raises(InvalidLaunch, match=r'pipeline\.0: no transform RandomFlop is registered, but RandomFlip is; '):
        validate_launch(Launch('train.py', Config(dict(train_dataloader=pipeline(FLOP)))))

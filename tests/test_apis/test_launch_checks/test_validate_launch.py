"""A start that would fail is refused, by the first of its processes in words."""

import contextlib
import sys

import pytest
from mmengine.config import Config

from apa_mmdet.apis import mmdet_tools
from apa_mmdet.apis.launch_checks.launch import Launch
from apa_mmdet.apis.launch_checks.validate_launch import InvalidLaunch, check_launch, validate_launch
from apa_mmdet.utils.config import BadConfig

VARIABLES = 'RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'
BROKEN = Config(dict(custom_hooks=[dict(type='EMAHok')]))


@pytest.fixture
def rank(monkeypatch):
    """Sets the variables of launchers to what is given, and removes the others."""

    def set_rank(**variables):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_rank


@pytest.mark.parametrize(
    'launcher, variables, is_first',
    [
        ('none', dict(SLURM_PROCID='1'), True),  # tasks of a job, each a training of its own
        ('none', dict(RANK='3', OMPI_COMM_WORLD_RANK='3'), True),
        ('pytorch', dict(RANK='0', SLURM_PROCID='1'), True),  # torchrun in a task of slurm
        ('pytorch', dict(RANK='1', SLURM_PROCID='0'), False),
        ('slurm', dict(SLURM_PROCID='0'), True),
        ('slurm', dict(SLURM_PROCID='1', RANK='0'), False),
        ('mpi', dict(OMPI_COMM_WORLD_RANK='1'), False),
        ('pytorch', dict(), True),  # the launcher is asked to set it
    ],
)
def test_the_first_process_names_the_errors_and_others_end_in_silence(launcher, variables, is_first, rank):
    rank(**variables)
    launch = Launch('train.py', BROKEN, launcher=launcher)
    assert launch.is_first_process == is_first
    with pytest.raises(InvalidLaunch if is_first else SystemExit) as ended:
        validate_launch(launch)
    if is_first:
        assert ended.value.code == 'findings'
        assert [(finding.code, finding.ids) for finding in ended.value.findings] == [
            ('unknown-type', ('custom_hooks.0',))
        ]
    else:
        assert ended.value.code == 1


def test_a_start_in_each_task_of_a_job_says_why_it_is_refused(tmp_path, monkeypatch, rank):
    rank(SLURM_PROCID='1')
    (tmp_path / 'config.py').write_text(BROKEN.pretty_text)
    monkeypatch.setattr(sys, 'argv', ['train.py', str(tmp_path / 'config.py')])
    with pytest.raises(SystemExit, match='no hook EMAHok is registered'):
        mmdet_tools.run('train.py')


ODD = (None, 3, 'x', [3], dict(type=None), dict(type=4), [dict(type=None)])
LOADER = dict(dataset=dict(type='CocoDataset', pipeline=[]), sampler=dict(type='DefaultSampler'))
SETTINGS = (
    *('default_hooks', 'default_hooks.checkpoint', 'default_hooks.visualization', 'custom_hooks', 'param_scheduler'),
    *('val_dataloader', 'test_dataloader', 'test_dataloader.dataset', 'val_evaluator', 'test_evaluator.metric'),
    *('model.test_cfg', 'model.test_cfg.rcnn', 'model.backbone', 'tta_model', 'tta_model.tta_cfg', 'optim_wrapper'),
)


@pytest.mark.parametrize('setting', SETTINGS)
def test_a_setting_of_another_form_is_refused_or_found_and_ends_no_check(setting):
    cfg = dict(
        model=dict(type='MaskRCNN', backbone=dict(type='SEResNet'), test_cfg=dict(rcnn=dict(max_per_img=9))),
        tta_model=dict(type='DetTTAModel', tta_cfg=dict(max_per_img=9)),
        visualizer=dict(type='DetLocalVisualizer'),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook'), visualization=dict(draw=True)),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD')),
    )
    for split in ('val', 'test'):
        cfg.update({f'{split}_dataloader': LOADER, f'{split}_evaluator': dict(type='CocoMetric', metric='bbox')})
    *parts, last = setting.split('.')
    for odd in ODD:
        broken = Config(cfg)
        node = broken
        for part in parts:
            node = node[part]
        node[last] = odd
        for tool, more in (('train.py', dict(resume='auto')), ('test.py', dict(tta=True))):
            with contextlib.suppress(BadConfig):
                check_launch(Launch(tool, broken, draws=True, **more))


def test_a_type_that_is_none_is_not_registered():
    for odd in (None, 4):
        findings = check_launch(Launch('train.py', Config(dict(custom_hooks=[dict(type=odd)]))))
        assert [finding.code for finding in findings] == ['unknown-type']

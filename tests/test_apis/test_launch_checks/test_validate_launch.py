"""A start that would fail is refused, by the first of its processes in words."""

import sys

import pytest
from mmengine.config import Config

from apa_mmdet.apis import mmdet_tools
from apa_mmdet.apis.launch_checks.launch import Launch
from apa_mmdet.apis.launch_checks.validate_launch import InvalidLaunch, validate_launch

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
            ('unknown-type', ('custom_hooks[0]',))
        ]
    else:
        assert ended.value.code == 1


def test_a_start_in_each_task_of_a_job_says_why_it_is_refused(tmp_path, monkeypatch, rank):
    rank(SLURM_PROCID='1')
    (tmp_path / 'config.py').write_text(BROKEN.pretty_text)
    monkeypatch.setattr(sys, 'argv', ['train.py', str(tmp_path / 'config.py')])
    with pytest.raises(SystemExit, match='no hook EMAHok is registered'):
        mmdet_tools.run('train.py')

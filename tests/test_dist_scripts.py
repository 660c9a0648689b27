"""The shell scripts that start several processes; test_distributed.py runs them for real."""

import os
import subprocess

import pytest
from helpers.paths import ROOT

ONE_MACHINE = '--standalone --local-addr=127.0.0.1'
SEVERAL = dict(NNODES='3', NODE_RANK='1', MASTER_ADDR='10.0.0.1')


@pytest.fixture
def start(tmp_path):
    """Runs a script with a ``python`` and an ``srun`` that print their arguments."""
    for name in ('python', 'srun'):
        (tmp_path / name).write_text('#!/bin/sh\necho "$@"\n')
        (tmp_path / name).chmod(0o755)

    def run(script, *arguments, **env):
        return subprocess.run(
            ['bash', ROOT / 'tools' / script, *arguments],
            capture_output=True,
            text=True,
            env=dict(PATH=f'{tmp_path}:{os.environ["PATH"]}', **env),
        )

    return run


@pytest.mark.parametrize(
    'script, arguments, env, machines, tool',
    [
        ('dist_train.sh', 'c.py 2 --resume auto', {}, ONE_MACHINE, 'train.py --launcher pytorch c.py --resume auto'),
        ('dist_train.sh', 'c.py 2', dict(NNODES='1', PORT='1'), ONE_MACHINE, 'train.py --launcher pytorch c.py'),
        ('dist_test.sh', 'c.py c.pth 2 --out a', {}, ONE_MACHINE, 'test.py --launcher pytorch c.py c.pth --out a'),
        (
            'dist_test.sh',
            'c.py c.pth 2',
            SEVERAL,
            '--nnodes=3 --node-rank=1 --master-addr=10.0.0.1 --master-port=29500',
            'test.py --launcher pytorch c.py c.pth',
        ),
        (
            'dist_train.sh',
            'c.py 2',
            dict(SEVERAL, PORT='4000'),
            '--nnodes=3 --node-rank=1 --master-addr=10.0.0.1 --master-port=4000',
            'train.py --launcher pytorch c.py',
        ),
    ],
)
def test_dist_scripts_hand_torchrun_the_machines_and_the_tool_its_options(
    script, arguments, env, machines, tool, start
):
    run = start(script, *arguments.split(), **env)
    assert run.stdout == f'-m torch.distributed.run {machines} --nproc-per-node=2 {ROOT}/tools/{tool}\n', run.stderr


def test_slurm_script_hands_srun_the_resources_and_the_tool_its_options(start):
    run = start('slurm_train.sh', 'part', 'job', 'c.py', 'work', '--resume', GPUS='16', SRUN_ARGS='--mem 4G')
    assert run.stdout == (
        '-p part --job-name=job --gres=gpu:8 --ntasks=16 --ntasks-per-node=8 --cpus-per-task=5 --kill-on-bad-exit=1 '
        f'--mem 4G python -u {ROOT}/tools/train.py c.py --work-dir=work --launcher=slurm --resume\n'
    ), run.stderr


@pytest.mark.parametrize(
    'script, arguments, env, line',
    [
        ('dist_train.sh', ['c.py'], {}, 'usage: tools/dist_train.sh CONFIG PROCESSES'),
        ('dist_test.sh', ['c.py', '2'], {}, 'usage: tools/dist_test.sh CONFIG CHECKPOINT PROCESSES'),
        ('slurm_train.sh', ['part', 'job', 'c.py'], {}, 'tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR'),
        ('dist_train.sh', ['c.py', '2'], dict(NNODES='2'), 'NODE_RANK: set it to the rank of this machine'),
        ('dist_train.sh', ['c.py', '2'], dict(NNODES='2', NODE_RANK='0'), 'MASTER_ADDR: set it to the address'),
    ],
)
def test_a_missing_argument_ends_the_script_with_one_line(script, arguments, env, line, start):
    run = start(script, *arguments, **env)
    assert run.returncode != 0 and run.stdout == '' and line in run.stderr and run.stderr.count('\n') == 1

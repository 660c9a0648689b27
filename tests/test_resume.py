"""A resumed run equals the uninterrupted one in weights, optimizer, schedulers and logs, bit for bit."""

import os
import subprocess
import sys

import pytest
import torch
from helpers.paths import ROOT
from helpers.soak import compare, differences
from helpers.tiny_runs import tinier, train_until
from mmengine.runner import Runner

SOAK = ROOT / 'tests/helpers/soak.py'
OPTIONS = {
    'train_cfg': dict(max_epochs=2),
    'default_hooks.checkpoint.by_epoch': False,
    'default_hooks.checkpoint.interval': 4,
}


@pytest.fixture(scope='module')
def data(tiny_data):
    return tiny_data(train=12, val=5, size=(96, 64))


def train(data, work_dir, stop=None, **options):
    """Trains in ``work_dir``, with a random seed unless ``options`` name one."""
    options = {'randomness.seed': None, **OPTIONS, **options}
    # or runs would share their logs
    options['experiment_name'] = options['visualizer.name'] = f'{work_dir} until {stop}'
    runner = Runner.from_cfg(tinier(data, work_dir, **options))
    train_until(runner, stop)
    return runner


def differences_after_resume(data, folder, **options):
    """What differs between a run stopped after 6 steps, resumed from its 4th, and a run of the same seed."""
    seed = train(data, folder / 'stopped', stop=6, **options).seed
    assert (folder / 'stopped/last_checkpoint').read_text().endswith('iter_4.pth')
    train(data, folder / 'stopped', resume=True, **options)
    train(data, folder / 'whole', **{**options, 'randomness.seed': seed})
    return compare(folder / 'whole', folder / 'stopped')


def test_resume_within_an_epoch_is_bitwise_equal(data, tmp_path):
    assert differences_after_resume(data, tmp_path) == []


ITERATIONS = {
    'train_cfg': dict(type='ResumableIterBasedTrainLoop', max_iters=9),
    'log_processor.by_epoch': False,
    'param_scheduler': [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=9)],
}


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 2])
def test_resume_of_an_iteration_based_run_is_bitwise_equal(workers, data, tmp_path):
    options = {
        'train_dataloader.num_workers': workers,
        'train_dataloader.persistent_workers': workers > 0,
        **ITERATIONS,
    }
    assert differences_after_resume(data, tmp_path, **options) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    'options',
    [
        {'custom_hooks': [dict(type='EMAHook', momentum=0.1)]},
        {'optim_wrapper.accumulative_counts': 2},
        {'optim_wrapper.type': 'MixedPrecisionOptimWrapper', 'optim_wrapper.dtype': 'bfloat16'},
        {'optim_wrapper.type': 'MixedPrecisionOptimWrapper', 'optim_wrapper.dtype': 'float16'},
    ],
    ids=['EMA', 'accumulated gradients', 'bfloat16', 'float16'],
)
def test_resume_with_more_state_is_bitwise_equal(options, data, tmp_path):
    assert differences_after_resume(data, tmp_path, **options) == []


TWO = """
import random, sys, torch
from helpers.tiny_runs import Points, Stop, Toy, toy
from apa_mmdet.engine.runner import SafeRunner, join_on_cpu
class Shaken(Points):
    def __getitem__(self, index):
        return dict(inputs=super().__getitem__(index)['inputs'] * (1 + random.random()))
class Dropping(Toy):
    def forward(self, inputs, mode='tensor', **_):
        return super().forward([torch.nn.functional.dropout(image, .3) for image in inputs], mode)
work_dir, loop, stop, resume, workers = *sys.argv[1:3], *map(int, sys.argv[3:])
iterations = dict(
    train_cfg=dict(type='ResumableIterBasedTrainLoop', max_iters=4), log_processor=dict(by_epoch=False),
)
join_on_cpu('pytorch')
torch.manual_seed(0)
runner = toy(work_dir, dataset=Shaken(), resume=bool(resume), runner_type=SafeRunner, launcher='pytorch', name=str(stop),
             loader=dict(num_workers=workers, sampler=dict(type='DefaultSampler', shuffle=True)), by_epoch=False,
             interval=1, options=dict(model=Dropping(), **(iterations if loop == 'iterations' else {})))
runner.register_hook(Stop(stop), 'LOWEST')
try:
    runner.train()
except KeyboardInterrupt:
    pass
"""


@pytest.mark.slow
@pytest.mark.parametrize('loop', ['epochs', 'iterations'])
def test_resume_of_two_processes_is_bitwise_equal(loop, tmp_path):
    script = tmp_path / 'two.py'
    script.write_text(TWO)
    env = dict(
        os.environ,
        OMP_NUM_THREADS='1',
        PYTHONWARNINGS='ignore',
        CUDA_VISIBLE_DEVICES='',
        PYTHONPATH=f'{ROOT / "tests"}:{ROOT}',
    )
    for work_dir, stop, resume, workers in (('whole', 0, 0, 0), ('stopped', 3, 0, 2), ('stopped', 0, 1, 2)):
        command = [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--standalone',
            '--nproc_per_node=2',
            script,
            tmp_path / work_dir,
            loop,
            stop,
            resume,
            workers,
        ]
        run = subprocess.run([str(word) for word in command], env=env, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr[-3000:]
        if stop:
            assert (tmp_path / 'stopped/last_checkpoint').read_text().endswith('iter_3.pth')
            assert compare(tmp_path / 'whole', tmp_path / 'stopped') != []
    assert compare(tmp_path / 'whole', tmp_path / 'stopped') == []


@pytest.mark.slow
def test_resume_without_the_hook_is_not_bitwise_equal(data, tmp_path):
    found = differences_after_resume(data, tmp_path, **{'default_hooks.resume': None, 'randomness.seed': 0})
    assert any('state_dict' in name for name in found) and any('log of step' in name for name in found)


def test_differences_are_found_at_every_level():
    one = dict(a=[torch.zeros(2), 1.0], b=dict(c=torch.ones(1)))
    assert differences(one, dict(a=[torch.zeros(2), 1.0], b=dict(c=torch.ones(1)))) == []
    assert differences(one, dict(a=[torch.tensor([0.0, 1e-30]), 2.0], b={})) == ['.a.0', '.a.1', '.b.c']


@pytest.mark.slow
def test_resume_is_bitwise_equal_after_twenty_sigkills(tmp_path):
    env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=f'{ROOT / "tests"}:{ROOT}', PYTHONWARNINGS='ignore')
    command = [sys.executable, SOAK, tmp_path / 'soak', '--kills', '20']
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    assert all(words in run.stdout for words in ('killed 20 times', 'while a file was written', 'no difference'))

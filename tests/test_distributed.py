"""Compares one process with two, started by the scripts of tools/ over gloo. See docs/distributed.md."""

import json
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from helpers.distributed_worker import deterministic_config, overfitting_config, small_config, two_objects_each
from helpers.paths import ROOT
from helpers.programs import environment
from helpers.tiny_runs import saved_at
from mmdet.registry import MODELS
from mmengine.runner import Runner, save_checkpoint

from apa_mmdet.engine.runner import LauncherError, join_on_cpu
from apa_mmdet.models.losses import DropLoss


def start(*command, cwd, **env):
    env = environment(PYTHONPATH=f'{ROOT}:{ROOT / "tests"}', **env)
    return subprocess.Popen(
        [str(c) for c in command], cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def output_of(process, code=0):
    text = process.communicate(timeout=500)[0]
    assert process.returncode == code, text[-5000:]
    return text


def dumped(cfg, path):
    path.write_text(''.join(f'{key} = {value!r}\n' for key, value in cfg._cfg_dict.to_dict().items()))
    return path


@pytest.fixture(scope='module')
def data(tmp_path_factory, tiny_data):
    folder = tmp_path_factory.mktemp('data') / 'tiny_lvis'
    shutil.copytree(tiny_data(train=12, val=5, size=(96, 64)), folder)
    two_objects_each(folder)
    return folder


@pytest.fixture(scope='module')
def fitted(data, tmp_path_factory):
    """A checkpoint that detects something."""
    folder = tmp_path_factory.mktemp('fitted')
    torch.manual_seed(0)
    runner = Runner.from_cfg(overfitting_config(data, folder))
    runner.train()
    assert runner.message_hub.log_scalars['val/lvis/bbox_AP'].data[0][-1] > 0.05
    save_checkpoint(dict(state_dict=runner.model.state_dict(), meta={}), str(folder / 'fitted.pth'))
    return folder / 'fitted.pth'


@pytest.fixture(scope='module')
def runs(data, fitted, tmp_path_factory):
    """Records of the same training in one process with batches of 4 and in two with batches of 2."""
    folder = tmp_path_factory.mktemp('runs')
    cfg = deterministic_config(data, folder / 'one', fitted)
    two = start(
        'bash',
        ROOT / 'tools/dist_train.sh',
        dumped(cfg, folder / 'config.py'),
        2,
        '--work-dir',
        'two',
        '--cfg-options',
        'train_dataloader.batch_size=2',
        cwd=folder,
    )
    Runner.from_cfg(cfg).train()
    output_of(two)
    return [torch.load(folder / f'{name}.pth', weights_only=True) for name in ('one/rank0', 'two/rank0', 'two/rank1')]


def test_two_processes_train_as_one(runs, fitted):
    one, *two = runs
    losses = [key for key in one['history'] if 'loss' in key]
    assert len(losses) == 6
    for key in losses:
        whole, *halves = (torch.tensor(run['history'][key]) for run in runs)
        assert len(whole) == 2 and not torch.equal(*halves), 'the processes had the same images'
        torch.testing.assert_close(torch.stack(halves).mean(0), whole, rtol=2e-5, atol=1e-7)
    start = torch.load(fitted, weights_only=True)['state_dict']
    moved = {key: (one['weights'][key] - start[key]).abs().max() for key in one['weights']}
    assert sum(distance > 1e-5 for distance in moved.values()) > len(moved) / 2
    for key, weight in one['weights'].items():
        assert torch.equal(two[0]['weights'][key], two[1]['weights'][key])
        assert (two[0]['weights'][key] - weight).abs().max() <= 3e-7, key  # 3e-8 measured


def test_two_processes_evaluate_as_one(runs):
    figures = [
        {key: values[-1] for key, values in run['history'].items() if key.startswith('val/lvis/')} for run in runs
    ]
    assert figures[0]['val/lvis/bbox_AP'] > 0.05 and figures[0]['val/lvis/segm_AP'] > 0
    same = pytest.approx(figures[0], abs=0, nan_ok=True)
    assert figures[1] == same and (not figures[2] or figures[2] == same)


def test_a_process_without_objects_takes_part_in_the_step(runs):
    with_objects, without = (run['empty'] for run in runs[1:])
    assert with_objects['losses']['loss_mask'] > 0 == without['losses']['loss_mask']
    assert all(torch.equal(weight, without['weights'][key]) for key, weight in with_objects['weights'].items())
    assert not torch.equal(
        with_objects['weights']['roi_head.mask_head.conv_logits.weight'],
        runs[1]['weights']['roi_head.mask_head.conv_logits.weight'],
    )


def test_each_process_draws_its_own_random_numbers(runs):
    one, *two = (run['drawn'] for run in runs)
    assert len({tuple(draws) for draws in torch.cat(two).tolist()}) == 4
    assert torch.equal(two[0], one), 'a single process is process 0'


def test_droploss_of_two_processes_is_that_of_one_in_expectation():
    """With as many foreground RoIs in both, of rare classes in the one (r = 1) and of others in the other (r = 0), and
    the same logits everywhere: together r = 1/2."""
    loss = DropLoss(3, link='sigmoid', class_frequency=[0.5, 0.0001, 0.0001])
    logits = torch.zeros(200, 3)
    rare, frequent = torch.tensor([1, 2] + [3] * 98), torch.tensor([0, 0] + [3] * 98)
    halves = torch.stack([loss(logits[:100], rare), loss(logits[100:], frequent)])
    wholes = torch.stack([loss(logits, torch.cat([rare, frequent])) for _ in range(400)])
    error = wholes.std() / 20
    assert error > 0 and halves[0] - halves[1] > 50 * error, 'nothing is drawn, or both are the same'
    assert (wholes.mean() - halves.mean()).abs() < 4 * error


@pytest.mark.slow
def test_dist_test_gives_the_metrics_of_test_py(data, fitted, tmp_path):
    config = dumped(small_config(data, tmp_path / 'work'), tmp_path / 'config.py')
    figures = []
    for command in (
        [sys.executable, ROOT / 'tools/test.py', config, fitted],
        ['bash', ROOT / 'tools/dist_test.sh', config, fitted, 2],
    ):
        work = tmp_path / f'work{len(figures)}'
        output_of(start(*command, '--work-dir', work, cwd=tmp_path))
        figures.append(json.loads(next(work.glob('*/*.json')).read_text()))
    assert figures[0]['lvis/bbox_AP'] > 0.05
    one, two = ({key: value for key, value in run.items() if key.startswith('lvis/')} for run in figures)
    assert two == pytest.approx(one, abs=0, nan_ok=True)


@pytest.mark.slow
def test_two_nodes_train_alike(data, fitted, tmp_path):
    """Both nodes are this machine."""
    config = dumped(deterministic_config(data, tmp_path / 'work', fitted), tmp_path / 'config.py')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    machines = [
        start(
            'bash',
            ROOT / 'tools/dist_train.sh',
            config,
            1,
            cwd=tmp_path,
            NNODES='2',
            NODE_RANK=str(rank),
            MASTER_ADDR='127.0.0.1',
            PORT=str(port),
        )
        for rank in (0, 1)
    ]
    for machine in machines:
        output_of(machine)
    weights = [torch.load(tmp_path / f'work/rank{rank}.pth', weights_only=True)['weights'] for rank in (0, 1)]
    assert all(torch.equal(weight, weights[1][key]) for key, weight in weights[0].items())


DDP = dict(
    type='DDPStrategy', model_wrapper=dict(type='MMDistributedDataParallel', broadcast_buffers=False, device_ids=None)
)
FSDP = dict(
    type='FSDPStrategy',
    model_wrapper=dict(type='MMFullyShardedDataParallel', device_id='cpu'),
    state_dict_cfg=dict(
        state_dict_type='FULL_STATE_DICT',
        state_dict_config=dict(type='FullStateDictConfig'),
        optim_state_dict_config=dict(type='FullOptimStateDictConfig', offload_to_cpu=False),
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize('strategy, ends', [(DDP, [1, 2]), (FSDP, [2])], ids=['DDP, resumed', 'FSDP'])
def test_ddp_and_fsdp_train_lambda_and_kappa_and_save_them_under_their_names(strategy, ends, data, tmp_path):
    """With the settings of docs/distributed.md for a CPU; ``ends``: the epochs after which the run ends, to be resumed."""
    cfg = small_config(data, tmp_path / 'work')
    for split in ('val', 'test'):
        cfg.update({f'{split}_cfg': None, f'{split}_dataloader': None, f'{split}_evaluator': None})
    cfg.runner_type = 'FlexibleRunner'
    cfg.strategy = strategy
    cfg.model.roi_head.mask_head.predictor_cfg = dict(type='NormedConv2d')
    cfg.optim_wrapper.pop('clip_grad')
    cfg.default_hooks.checkpoint = dict(type='AtomicCheckpointHook', interval=1)
    for cfg.train_cfg.max_epochs in ends:
        config = dumped(cfg, tmp_path / 'config.py')
        output_of(start('bash', ROOT / 'tools/dist_train.sh', config, 2, '--resume', cwd=tmp_path))
    first, second = (
        {key.removeprefix('module.'): weight for key, weight in saved_at(path)['state_dict'].items()}
        for path in (tmp_path / 'work/epoch_1.pth', tmp_path / 'work/epoch_2.pth')
    )
    plain = MODELS.build(cfg.model).state_dict()
    assert {key: weight.shape for key, weight in first.items()} == {key: weight.shape for key, weight in plain.items()}
    names = [key for key in first if key.endswith(('.lambda_', '.kappa'))]
    assert len(names) > 20 and sum(not torch.equal(first[key], second[key]) for key in names) > len(names) / 2


@pytest.mark.slow
def test_synchronized_batch_norm_without_a_gpu_is_an_error(data, tmp_path):
    config = dumped(small_config(data, tmp_path / 'work'), tmp_path / 'config.py')
    text = output_of(
        start('bash', ROOT / 'tools/dist_train.sh', config, 2, '--cfg-options', 'sync_bn=torch', cwd=tmp_path), code=1
    )
    assert 'SyncBatchNorm layers only work with GPU modules' in text


@pytest.mark.skipif(torch.cuda.is_available(), reason='only without a GPU')
@pytest.mark.parametrize(
    'launcher, code, line',
    [
        ('slurm', 'needs-gpu', 'a GPU for each process'),
        ('pytorch', 'missing-variable', 'the environment variable RANK'),
    ],
)
def test_an_unusable_launcher_is_refused(launcher, code, line, monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    with pytest.raises(LauncherError, match=f'--launcher {launcher} needs {line}') as refused:
        join_on_cpu(launcher)
    assert refused.value.code == code
    assert not join_on_cpu('none') and not join_on_cpu('bogus'), 'the tools have a list of choices'

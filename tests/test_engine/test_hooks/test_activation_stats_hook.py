"""λ and κ of each step reach the visualizer, and the last curves the work dir."""

import json
import os
import re
import warnings
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from helpers.processes import in_two_processes
from helpers.tiny_runs import Toy, log_of, toy
from mmdet.registry import MODELS
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import VISBACKENDS, init_default_scope
from torch import nn
from torch.overrides import TorchFunctionMode

from apa_mmdet.engine.hooks.activation_stats_hook import statistics_of
from apa_mmdet.engine.runner import SafeRunner
from apa_mmdet.models.activations import APALU
from apa_mmdet.models.activations.sites import find_learnable_activations
from apa_mmdet.visualization.learned_activation_plots import draw_learned_activations

IMAGES = ['activations_derivatives.png', 'activations_values.png']


class RecordParameters(Hook):
    """Keeps λ and κ of the toy's one activation after every step."""

    def __init__(self):
        self.values = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        act = runner.model.act
        self.values[runner.iter + 1] = act.lambda_.item(), act.kappa.item()


def trained(work_dir, interval=100, hooks=(), **options):
    """A run of the toy, which has one AGLU, ``act``, with this hook; and what it logged."""
    stats = dict(type='ActivationStatsHook', interval=interval)
    runner = toy(work_dir, hooks=dict(activation_stats=stats), **options)
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    return runner, logged(work_dir)


def logged(work_dir):
    """The lines of the local backend that are not those of the losses."""
    lines = [json.loads(line) for path in work_dir.glob('*/vis_data/scalars.json') for line in path.open()]
    return [line for line in lines if 'loss' not in line]


def images(folder):
    return sorted(path.name for path in Path(folder).glob('*.png'))


def test_values_are_logged_every_interval_and_at_the_end_of_each_epoch(tmp_path):
    record = RecordParameters()
    _, lines = trained(tmp_path, interval=3, hooks=[record])
    assert [line['step'] for line in lines] == [3, 4, 6, 8]
    for line in lines:
        lambda_, kappa = record.values[line['step']]
        assert line == {
            'iter': line['step'],
            'step': line['step'],
            **{f'lambda/act/AGLU/{what}': lambda_ for what in ('min', 'mean', 'max')},
            **{f'kappa/act/AGLU/{what}': kappa for what in ('min', 'mean', 'max')},
            'lambda/act/AGLU/unhealthy': 0.0,
            'kappa/act/AGLU/unhealthy': 0.0,
        }
    assert len({line['lambda/act/AGLU/mean'] for line in lines}) == 4, 'the toy learns'


def test_a_schedule_of_iterations_is_logged_to_its_last(tmp_path):
    _, lines = trained(tmp_path, interval=2, options=dict(train_cfg=dict(by_epoch=False, max_iters=3)))
    assert [line['step'] for line in lines] == [2, 3]


def test_the_curves_at_the_end_are_drawn_into_the_work_dir(tmp_path):
    runner, _ = trained(tmp_path / 'run', epochs=1)
    assert images(tmp_path / 'run') == IMAGES
    assert f'learned activations drawn: {tmp_path / "run" / IMAGES[1]}, ' in log_of(tmp_path / 'run')
    again = draw_learned_activations(find_learnable_activations(runner.model), 'run, iteration 4', tmp_path, 'again')
    with torch.no_grad():
        runner.model.act.kappa.add_(0.5)
    other = draw_learned_activations(find_learnable_activations(runner.model), 'run, iteration 4', tmp_path, 'other')
    for name, same, different in zip(reversed(IMAGES), again, other):
        drawn = (tmp_path / 'run' / name).read_bytes()
        assert drawn == same.read_bytes() != different.read_bytes()


def test_an_image_that_cannot_be_written_costs_a_warning(tmp_path):
    work_dir = tmp_path / 'run'
    work_dir.mkdir()
    (work_dir / IMAGES[1]).symlink_to('/dev/full')
    runner, _ = trained(work_dir, epochs=1)
    assert runner.iter == 4 and (work_dir / 'epoch_1.pth').exists()
    assert 'WARNING - the learned activations were not drawn: OSError: [Errno 28] No space left' in log_of(work_dir)


class Plain(Toy):
    """With ReLU instead of AGLU."""

    def __init__(self, act):
        super().__init__()
        self.act = act


def test_a_model_without_learnable_activations_is_ignored(tmp_path):
    assert statistics_of(Plain(nn.ReLU())) == {}
    _, lines = trained(tmp_path, interval=1, epochs=1, options=dict(model=Plain(nn.ReLU())))
    assert lines == [] and images(tmp_path) == [] and 'learned activations' not in log_of(tmp_path)


def test_other_learnable_activations_are_logged_and_drawn_too(tmp_path):
    runner, lines = trained(tmp_path, interval=1, epochs=1, options=dict(model=Plain(APALU(num_features=4))))
    names = {f'{parameter}/act/APALU/{what}' for parameter in 'ab' for what in ('min', 'mean', 'max')}
    assert len(lines) == 4 and all(line.keys() == names | {'iter', 'step'} for line in lines)
    assert lines[-1]['a/act/APALU/max'] == runner.model.act.a.max().item() and images(tmp_path) == IMAGES


def by_hand(model):
    """λ and κ of each stage, read off the names of the parameters; those of attention apart."""
    values = defaultdict(list)
    for name, p in model.named_parameters():
        if name.endswith(('.lambda_', '.kappa')):
            parameter, stage = name.split('.')[-1].rstrip('_'), re.match(r'layer\d', name)
            kind = 'APA' if '.se.' in name else 'AGLU'
            values[f'{parameter}/{stage.group() if stage else "stem"}/{kind}'] += p.flatten().tolist()
    return values


@pytest.mark.parametrize('num_features', [1, None], ids=['site', 'channel'])
def test_statistics_are_those_of_a_stage(num_features):
    init_default_scope('mmdet')
    act = dict(type='AGLU', num_features=num_features)
    model = MODELS.build(dict(type='SEResNet', depth=18, act_cfg=act))
    with torch.no_grad():
        model.layer2[1].act_out.lambda_[0] = -1.0
        model.layer2[0].act_out.lambda_[0] = 1e-4
        model.layer3[0].se.gate.lambda_[0] = 1e-4
    found, expected = statistics_of(model), by_hand(model)
    assert {name.rsplit('/', 1)[0] for name in found} == set(expected) and len(expected) == 2 * (1 + 2 * 4)
    for group, values in expected.items():
        assert found[f'{group}/min'] == min(values) and found[f'{group}/max'] == max(values)
        assert found[f'{group}/mean'] == pytest.approx(sum(values) / len(values), rel=1e-5)
    unhealthy = {name: share for name, share in found.items() if name.endswith('/unhealthy') and share}
    sites = 4 * (1 if num_features else 128)  # of layer2
    assert unhealthy == {'lambda/layer2/AGLU/unhealthy': 2 / sites, 'lambda/layer3/APA/unhealthy': 0.5}


def test_necks_and_swapped_activations_are_stages_too():
    init_default_scope('mmdet')
    swapped = dict(type='SwapActivations', module=dict(type='ResNet', depth=18), swap=dict(ReLU=dict(type='AGLU')))
    model = nn.ModuleDict(dict(backbone=MODELS.build(swapped), neck=nn.Sequential(MODELS.build(dict(type='APA')))))
    groups = {name.rsplit('/', 1)[0] for name in statistics_of(model.half()) if name.startswith('lambda/')}
    layers = {f'lambda/layer{n}/AGLU' for n in (1, 2, 3, 4)}
    assert groups == {'lambda/backbone/AGLU', 'lambda/neck/APA'} | layers


def test_all_sites_are_copied_at_once():
    class Copies(TorchFunctionMode):
        count = 0

        def __torch_function__(self, function, types, args=(), kwargs=None):
            self.count += getattr(function, '__name__', '') in ('cpu', 'to', 'item', 'tolist', '__float__', '__bool__')
            return function(*args, **(kwargs or {}))

    model = nn.ModuleList(MODELS.build(dict(type='AGLU', num_features=n)) for n in (1, 3, 1))
    with Copies() as copies:
        assert len(statistics_of(model)) > 0
    assert copies.count == 1


class Received(list):
    """Stands where tensorboard's writer and wandb would, which need not be installed."""

    def add_scalar(self, name, value, step):
        self.append((name, value, step))

    def log(self, values, commit):
        self.extend((name, value, values['iter']) for name, value in values.items())


@pytest.mark.parametrize('kind, attribute', [('TensorboardVisBackend', '_tensorboard'), ('WandbVisBackend', '_wandb')])
def test_other_backends_take_what_is_logged(kind, attribute, tmp_path):
    backend = VISBACKENDS.build(dict(type=kind, save_dir=str(tmp_path)))
    received = Received()
    backend._env_initialized = True
    setattr(backend, attribute, received)
    found = statistics_of(Toy())
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # TensorBoard's skips with a warning what it does not take
        backend.add_scalars(dict(found, iter=7), step=7)
    assert received == [(name, value, 7) for name, value in dict(found, iter=7).items()]
    assert all(type(value) is float for value in found.values())
    assert all(re.fullmatch(r'[-/\w.]+', name) for name in found), 'TensorBoard would replace other characters'


def train_in_process(rank, folder):
    torch.set_num_threads(1)
    os.environ['LOCAL_RANK'] = str(rank)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    hooks = dict(activation_stats=dict(type='ActivationStatsHook'))
    runner = toy(folder / f'rank{rank}', epochs=1, hooks=hooks, launcher='pytorch', runner_type=SafeRunner)
    assert is_model_wrapper(runner.model)
    runner.train()


def test_the_first_of_several_processes_logs_and_draws(tmp_path):
    in_two_processes(train_in_process, tmp_path, start='spawn')
    assert [images(tmp_path / f'rank{rank}') for rank in (0, 1)] == [IMAGES, []]
    (line,), none = (logged(tmp_path / f'rank{rank}') for rank in (0, 1))
    assert {name.rsplit('/', 1)[0] for name in line} == {'iter', 'step', 'lambda/act/AGLU', 'kappa/act/AGLU'}
    assert line['step'] == 2 and none == []

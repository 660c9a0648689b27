import os
import subprocess
import sys

import pytest
import torch
from helpers.paths import ROOT
from helpers.tiny_runs import Points, Toy, log_of, tinier, toy
from helpers.torch_features import needs_half_on_cpu
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import nn

from apa_mmdet.engine.hooks.skip_non_finite_hook import _finite

NAN = Points(broken=[4], change=lambda image: image * float('nan'))  # in the second step of an epoch
BLACK = Points(broken=[4], change=torch.zeros_like)  # where the slope of the root is infinite, and its value 0


def skipped(work_dir):
    return [line.split(' - WARNING - ')[1] for line in log_of(work_dir).splitlines() if 'step skipped' in line]


def state(runner):
    optimizer = runner.optim_wrapper.optimizer.state_dict()['state']
    moments = [value for moments in optimizer.values() for value in moments.values()]
    return [tensor.clone() for tensor in (*runner.model.state_dict().values(), *moments)]


class Watch:
    """Steps of a run, and those in which nothing at all changed."""

    def __init__(self, runner):
        self.still, states = [], [None]

        def after(runner, batch_idx, data_batch=None, outputs=None):
            states.append(state(runner))
            if states[-2] and all(map(torch.equal, states[-2], states[-1])):
                self.still.append(runner.iter + 1)

        hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'SkipNonFiniteHook')
        hook.after_train_iter = lambda runner, **kwargs: after(runner, **kwargs)


@pytest.mark.parametrize('clip', [None, dict(max_norm=1.0), dict(type='value', clip_value=0.1)], ids=str)
@pytest.mark.parametrize('data, reason', [(NAN, 'loss_square is nan'), (BLACK, 'the gradient of conv.weight is nan')])
def test_a_bad_step_changes_nothing_and_is_named(clip, data, reason, tmp_path):
    runner = toy(tmp_path, dataset=data, optim_wrapper=dict(clip_grad=clip and dict(clip)))
    watch = Watch(runner)
    runner.train()
    assert watch.still == [2, 6]
    assert skipped(tmp_path) == [
        f'iteration {n}: step skipped, {reason} (1 in a row, 10 stop the training)' for n in (2, 6)
    ]
    assert all(value.isfinite().all() for value in state(runner))


def test_good_steps_are_those_of_a_run_without_the_hook(tmp_path):
    with_hook, without = toy(tmp_path / 'a'), toy(tmp_path / 'b', name='without')
    without._hooks = [hook for hook in without._hooks if type(hook).__name__ != 'SkipNonFiniteHook']
    for runner in (with_hook, without):
        runner.train()
    assert all(map(torch.equal, state(with_hook), state(without))) and skipped(tmp_path / 'a') == []


def test_accumulated_gradients_are_skipped_together(tmp_path):
    runner = toy(tmp_path, dataset=NAN, epochs=1, optim_wrapper=dict(accumulative_counts=2))
    start = [p.clone() for p in runner.model.parameters()]
    seen = []

    def after(runner, batch_idx, data_batch=None, outputs=None):
        seen.append([p.clone() for p in runner.model.state_dict().values()])

    runner.hooks[0].after_train_iter = after
    runner.train()
    assert all(map(torch.equal, [p for p in seen[1] if p.is_floating_point()][:2], start[:2]))
    assert runner.model.norm.num_batches_tracked == 2, 'the norms saw the two images after the skipped step alone'
    assert skipped(tmp_path) == ['iteration 2: step skipped, loss_square is nan (1 in a row, 10 stop the training)']
    assert not torch.equal(runner.model.conv.weight, start[0])


def test_training_stops_after_max_in_a_row_failures(tmp_path):
    runner = toy(tmp_path, weight=float('inf'), hooks=dict(finite=dict(type='SkipNonFiniteHook', max_in_a_row=3)))
    start = [p.clone() for p in runner.model.state_dict().values()]
    with pytest.raises(
        FloatingPointError,
        match='iteration 3: loss_square is inf; 3 steps in a row failed; the weights are finite: check the images',
    ):
        runner.train()
    assert all(map(torch.equal, start, runner.model.state_dict().values()))


def test_gradients_whose_norm_overflows_are_skipped_too(tmp_path):
    runner = toy(tmp_path, weight=1e25, epochs=1)
    watch = Watch(runner)
    runner.train()
    assert watch.still == [2, 3, 4]
    assert 'step skipped, the norm of the gradients overflows (1 in' in skipped(tmp_path)[0]


def test_a_weight_that_is_not_finite_is_named_when_training_stops(tmp_path):
    runner = toy(tmp_path, hooks=dict(finite=dict(type='SkipNonFiniteHook', max_in_a_row=2)))
    with torch.no_grad():
        runner.model.out.weight[0, 0] = float('inf')
    with pytest.raises(
        FloatingPointError, match=r'2 steps in a row .* out.weight itself is inf: resume from an earlier'
    ):
        runner.train()


@needs_half_on_cpu
def test_an_overflow_under_an_adapting_loss_scale_is_no_failure(tmp_path):
    mixed = dict(type='MixedPrecisionOptimWrapper', dtype='float16', loss_scale=dict(init_scale=2.0**30))
    impatient = dict(finite=dict(type='SkipNonFiniteHook', max_in_a_row=2))
    runner = toy(tmp_path, epochs=9, optim_wrapper=mixed, hooks=impatient)
    start = runner.model.conv.weight.clone()
    runner.train()
    assert 1 <= runner.optim_wrapper.loss_scaler.get_scale() < 2.0**30 and skipped(tmp_path) == []
    assert not torch.equal(start, runner.model.conv.weight)


@needs_half_on_cpu
@pytest.mark.parametrize('scale', [dict(init_scale=0.5), 4.0], ids=['collapsed', 'fixed'])
def test_an_overflow_under_a_fixed_or_collapsed_loss_scale_is_a_failure(scale, tmp_path):
    mixed = dict(type='MixedPrecisionOptimWrapper', dtype='float16', loss_scale=scale)
    runner = toy(tmp_path, dataset=BLACK, epochs=1, optim_wrapper=mixed)
    watch = Watch(runner)
    runner.train()
    assert watch.still == [2]
    assert len(skipped(tmp_path)) == 1 and 'the gradient of conv.weight is nan' in skipped(tmp_path)[0]


def test_several_optimizers_are_refused(tmp_path):
    runner = toy(tmp_path)
    parts = [torch.optim.SGD(part.parameters(), 0.1) for part in (runner.model.conv, runner.model.out)]
    runner.optim_wrapper = OptimWrapperDict(a=OptimWrapper(parts[0]), b=OptimWrapper(parts[1]))
    with pytest.raises(ValueError, match=r'this config has several \(a, b\): remove the hook from default_hooks'):
        runner.train()


class WithEmbedding(Toy):
    """With a table whose gradient is sparse and ``factor`` times as large as it should be."""

    def __init__(self, factor):
        super().__init__()
        self.table, self.factor = nn.Embedding(5, 2, sparse=True), factor

    def forward(self, inputs, mode='tensor', **_):
        found = self.table(torch.tensor([1, 2, 1], device=self.table.weight.device))
        found.register_hook(lambda gradient: gradient * self.factor)
        return dict(super().forward(inputs, mode), loss_table=found.square().sum())


@pytest.mark.parametrize('factor, named', [(1.0, None), (float('inf'), 'inf')])
def test_a_sparse_gradient_is_checked(factor, named, tmp_path):
    model = WithEmbedding(factor)
    start = model.table.weight.detach().clone()
    sgd = dict(type='SGD', lr=0.01)
    toy(tmp_path, epochs=1, optim_wrapper=dict(optimizer=sgd), options=dict(model=model)).train()
    assert torch.equal(start, model.table.weight) == bool(named)
    assert all(f'the gradient of table.weight is {named}' in line for line in skipped(tmp_path))
    assert len(skipped(tmp_path)) == (4 if named else 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('gradients', [[], [torch.ones(2)]], ids=['no gradient', 'one'])
def test_losses_and_gradients_may_be_on_different_devices(gradients):
    gradients = [gradient.cuda() for gradient in gradients]
    losses = [torch.tensor(1.0, device='cuda'), torch.tensor(2.0)]
    assert _finite(losses, gradients) == (True, True)
    assert _finite([torch.tensor(float('nan'))], gradients) == (False, True)


@pytest.fixture(scope='module')
def data(tiny_data):
    return tiny_data(train=4, val=2, size=(96, 64))


def test_a_detector_with_an_infinite_loss_weight_stops_and_names_the_loss(data, tmp_path):
    runner = Runner.from_cfg(
        tinier(
            data,
            tmp_path,
            **{'model.roi_head.mask_head.loss_mask.loss_weight': float('inf'), 'default_hooks.finite.max_in_a_row': 2},
        )
    )
    with pytest.raises(FloatingPointError, match='iteration 2: loss_mask is inf'):
        runner.train()


def test_a_detector_with_an_infinite_weight_names_it(data, tmp_path):
    runner = Runner.from_cfg(tinier(data, tmp_path, **{'default_hooks.finite.max_in_a_row': 1}))
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'ActivationHealthHook')
    hook.before_train = lambda runner: runner.model.neck.fpn_convs[0].conv.weight.data.view(-1)[:1].fill_(float('inf'))
    with pytest.raises(FloatingPointError, match='neck.fpn_convs.0.conv.weight itself is inf'):
        runner.train()


TWO = '''
import sys, torch, torch.distributed as dist
from helpers import tiny_runs
from apa_mmdet.engine.runner import SafeRunner, join_on_cpu
join_on_cpu('pytorch')
class Detached(tiny_runs.Toy):
    """The first process has a loss that is not finite and gives no gradient: its peers cannot see it."""
    def forward(self, inputs, mode='tensor', **_):
        losses = super().forward(inputs, mode)
        Detached.calls = getattr(Detached, 'calls', 0) + 1
        if Detached.calls == 2 and dist.get_rank() == 0:
            losses['loss_logged'] = torch.tensor(float('nan'))
        return losses
torch.manual_seed(0)
runner = tiny_runs.toy({work!r}, launcher='pytorch', runner_type=SafeRunner, options=dict(model=Detached()))
runner.train()
weights = torch.cat([p.detach().flatten() for p in runner.model.parameters()])
others = [torch.empty_like(weights) for _ in range(2)]
dist.all_gather(others, weights)
assert torch.equal(*others), 'the processes have different weights'
dist.destroy_process_group()
'''


@pytest.mark.slow
def test_processes_skip_together(tmp_path):
    script = tmp_path / 'two.py'
    script.write_text(TWO.format(work=str(tmp_path / 'work')))
    env = dict(
        os.environ,
        OMP_NUM_THREADS='1',
        PYTHONWARNINGS='ignore',
        CUDA_VISIBLE_DEVICES='',
        PYTHONPATH=f'{ROOT / "tests"}:{ROOT}',
    )
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', script]
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    assert skipped(tmp_path / 'work') == [
        'iteration 2: step skipped, loss_logged is nan in process 0 (1 in a row, 10 stop the training)'
    ]

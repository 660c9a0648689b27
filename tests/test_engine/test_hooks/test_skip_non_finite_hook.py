import os
import subprocess
import sys

import pytest
import torch
from helpers.paths import ROOT
from helpers.tiny_runs import Points, Toy, log_of, tinier, toy
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner
from torch import nn

from apa_mmdet.datasets.tiny_lvis.generate import make_tiny_lvis
from apa_mmdet.engine.hooks.skip_non_finite_hook import _finite
from apa_mmdet.models.activations import AGLU

NAN = Points(broken=[4], change=lambda picture: picture * float('nan'))  # in the second step of an epoch
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
    assert runner.model.norm.num_batches_tracked == 2, 'the norms saw the two pictures after the skipped step alone'
    assert skipped(tmp_path) == ['iteration 2: step skipped, loss_square is nan (1 in a row, 10 stop the training)']
    assert not torch.equal(runner.model.conv.weight, start[0])


def test_training_stops_after_a_number_in_a_row(tmp_path):
    runner = toy(tmp_path, weight=float('inf'), hooks=dict(finite=dict(type='SkipNonFiniteHook', max_in_a_row=3)))
    start = [p.clone() for p in runner.model.state_dict().values()]
    with pytest.raises(
        FloatingPointError,
        match='iteration 3: loss_square is inf; 3 steps in a row could not be made; the weights are finite: look at',
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
    with pytest.raises(FloatingPointError, match=r'2 steps in a row .* out.weight itself is inf: resume from'):
        runner.train()


def test_an_overflow_that_the_loss_scale_will_mend_is_no_failure(tmp_path):
    mixed = dict(type='MixedPrecisionOptimWrapper', dtype='float16', loss_scale=dict(init_scale=2.0**30))
    impatient = dict(finite=dict(type='SkipNonFiniteHook', max_in_a_row=2))
    runner = toy(tmp_path, epochs=9, optim_wrapper=mixed, hooks=impatient)
    start = runner.model.conv.weight.clone()
    runner.train()
    assert 1 <= runner.optim_wrapper.loss_scaler.get_scale() < 2.0**30 and skipped(tmp_path) == []
    assert not torch.equal(start, runner.model.conv.weight)


@pytest.mark.parametrize('scale', [dict(init_scale=0.5), 4.0], ids=['collapsed', 'fixed'])
def test_one_that_it_will_not_mend_is(scale, tmp_path):
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
    with pytest.raises(ValueError, match=r'this config has several \(a, b\): leave the hook out of default_hooks'):
        runner.train()


class Looked(Toy):
    """With a table whose gradient is sparse and ``factor`` times as large as it should be."""

    def __init__(self, factor):
        super().__init__()
        self.table, self.factor = nn.Embedding(5, 2, sparse=True), factor

    def forward(self, inputs, mode='tensor', **_):
        found = self.table(torch.tensor([1, 2, 1]))
        found.register_hook(lambda gradient: gradient * self.factor)
        return dict(super().forward(inputs, mode), loss_table=found.square().sum())


@pytest.mark.parametrize('factor, told', [(1.0, None), (float('inf'), 'inf')])
def test_a_sparse_gradient_counts(factor, told, tmp_path):
    model = Looked(factor)
    start = model.table.weight.detach().clone()
    sgd = dict(type='SGD', lr=0.01)
    toy(tmp_path, epochs=1, optim_wrapper=dict(optimizer=sgd), options=dict(model=model)).train()
    assert torch.equal(start, model.table.weight) == bool(told)
    assert all(f'the gradient of table.weight is {told}' in line for line in skipped(tmp_path))
    assert len(skipped(tmp_path)) == (4 if told else 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('gradients', [[], [torch.ones(2)]], ids=['no gradient', 'one'])
def test_losses_and_gradients_may_be_on_different_devices(gradients):
    gradients = [gradient.cuda() for gradient in gradients]
    losses = [dict(loss_a=torch.tensor(1.0, device='cuda'), loss_b=torch.tensor(2.0))]
    assert _finite(losses, gradients) == (True, True)
    assert _finite([dict(loss=torch.tensor(float('nan')))], gradients) == (False, True)


def test_activations_out_of_range_are_reported_once(tmp_path):
    runner = toy(tmp_path, epochs=3)
    with torch.no_grad():
        runner.model.act.lambda_.fill_(-1.0)
        runner.model.act.kappa.fill_(-40.0)
    runner.train()
    said = [line.split(' - WARNING - ')[1] for line in log_of(tmp_path).splitlines() if ' sites: ' in line]
    assert len(said) == 2
    assert said[0] == 'λ is at its floor of 0.0001, where it has no gradient, in 1 of 1 sites: act.lambda_ -1'
    assert said[1].startswith('|κ| is above 30, in 1 of 1 sites: act.kappa -40')


def test_later_ones_are_reported_alone_and_the_counts_are_of_all(tmp_path):
    runner = toy(tmp_path, hooks=dict(activations=dict(type='ActivationHealthHook', max_kappa=50.0)))
    runner.model.more = nn.ModuleList(AGLU() for _ in range(11))  # which the model does not call
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'ActivationHealthHook')
    with torch.no_grad():
        for site in runner.model.more[:9]:
            site.kappa.fill_(60.0)
        hook.after_train_epoch(runner)
        runner.model.more[10].kappa.fill_(70.0)
        hook.after_train_epoch(runner)
        hook.after_train_epoch(runner)
    said = [line.split(' - WARNING - ')[1] for line in log_of(tmp_path).splitlines() if ' sites' in line]
    assert said[0].startswith('|κ| is above 50, in 9 of 12 sites: more.0.kappa 60, ')
    assert said[0].endswith(', more.7.kappa 60 and 1 more')
    assert said[1:] == ['|κ| is above 50, in 10 of 12 sites, 1 of them new: more.10.kappa 70']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tiny')
    make_tiny_lvis(folder, train=4, val=1, size=(96, 96), seed=0, progress=False)
    return folder


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


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_a_detector_trains_in_mixed_precision_on_a_cpu(dtype, data, tmp_path):
    if dtype == 'float16' and not hasattr(torch.amp, 'GradScaler'):
        pytest.skip('float16 on a CPU needs torch 2.3')
    runner = Runner.from_cfg(
        tinier(
            data,
            tmp_path,
            **{
                'optim_wrapper.type': 'MixedPrecisionOptimWrapper',
                'optim_wrapper.dtype': dtype,
                'optim_wrapper.loss_scale': dict(init_scale=64.0),
            },
        )
    )
    dtypes = {}
    for name in ('backbone.layer1.0.act_conv1', 'neck', 'rpn_head', 'roi_head.bbox_head.fc_cls', 'roi_head.mask_head'):
        runner.model.get_submodule(name).register_forward_pre_hook(
            lambda module, inputs, name=name: dtypes.update({name: inputs[0][0].dtype})
        )
    before = {name: p.clone() for name, p in runner.model.named_parameters()}
    runner.train()
    half = getattr(torch, dtype)
    # as half as can be, but for what RoIAlign and NMS get
    assert dtypes == {
        'backbone.layer1.0.act_conv1': half,
        'neck': half,
        'rpn_head': torch.float32,
        'roi_head.bbox_head.fc_cls': half,
        'roi_head.mask_head': torch.float32,
    }
    after = dict(runner.model.named_parameters())
    learnt = [name for name in before if not torch.equal(before[name], after[name])]
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in after.values())
    assert any(name.endswith('lambda_') for name in learnt) and any('mask_head' in name for name in learnt)
    assert skipped(tmp_path) == []


def test_a_mixed_precision_that_is_none_is_refused():
    with pytest.raises(ValueError, match="must be one of float16, bfloat16, got 'float8'"):
        OPTIM_WRAPPERS.build(
            dict(
                type='MixedPrecisionOptimWrapper',
                dtype='float8',
                optimizer=torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1),
            )
        )


TWO = '''
import sys, torch, torch.distributed as dist
sys.path.insert(0, {tests!r})
import tinier
from apa_mmdet.engine.runner.cpu_runner import CPURunner, join_on_cpu
join_on_cpu('pytorch')
tinier.Runner = CPURunner
class Detached(tinier.Toy):
    """The first process has a loss that is not finite and gives no gradient: its peers cannot see it."""
    def forward(self, inputs, mode='tensor', **_):
        losses = super().forward(inputs, mode)
        Detached.calls = getattr(Detached, 'calls', 0) + 1
        if Detached.calls == 2 and dist.get_rank() == 0:
            losses['loss_logged'] = torch.tensor(float('nan'))
        return losses
tinier.Toy = Detached
runner = tinier.toy({work!r}, launcher='pytorch')
runner.train()
weights = torch.cat([p.detach().flatten() for p in runner.model.parameters()])
others = [torch.empty_like(weights) for _ in range(2)]
dist.all_gather(others, weights)
assert torch.equal(*others), 'the processes have grown apart'
'''


@pytest.mark.slow
def test_processes_skip_together(tmp_path):
    script = tmp_path / 'two.py'
    script.write_text(TWO.format(tests=str(ROOT / 'tests'), work=str(tmp_path / 'work')))
    env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONWARNINGS='ignore', CUDA_VISIBLE_DEVICES='')
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2', script]
    run = subprocess.run(command, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    assert skipped(tmp_path / 'work') == [
        'iteration 2: step skipped, loss_logged is nan in process 0 (1 in a row, 10 stop the training)'
    ]

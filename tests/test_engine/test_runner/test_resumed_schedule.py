"""A resumed training has the learning rate that a training by its config has there, and its other settings."""

import pytest
from helpers.tiny_runs import log_of, saved_at, toy, train_until
from mmengine.hooks import Hook
from mmengine.registry import OPTIMIZERS
from torch.optim import SGD

from apa_mmdet.engine.runner import SafeRunner

STEPS = dict(type='MultiStepLR', milestones=[1, 3], gamma=0.1)
LATER = dict(type='MultiStepLR', milestones=[3, 4], gamma=0.1)
WARM_UP = dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=6)
LONGER_WARM_UP = dict(WARM_UP, end=10)
COSINE = dict(type='CosineAnnealingLR', T_max=4)
LONGER_COSINE = dict(type='CosineAnnealingLR', T_max=6)
BY_ITERATIONS = dict(COSINE, convert_to_iter_based=True)
ONE_CYCLE, LONGER_CYCLE = (dict(type='OneCycleLR', eta_max=0.02, total_steps=n, by_epoch=False) for n in (16, 24))
HALVES = dict(type='StepLR', step_size=2, gamma=0.5)
EXPONENTIAL = dict(type='ExponentialLR', gamma=0.5)
PLATEAU = dict(type='ReduceOnPlateauLR', monitor='loss', patience=3)
MOMENTUM = dict(type='LinearMomentum', start_factor=0.5, begin=0, end=4)


@OPTIMIZERS.register_module()
class CountingSGD(SGD):
    """Keeps a state among the settings of its groups, as D-Adaptation does."""

    def __init__(self, params, **kwargs):
        super().__init__(params, **kwargs)
        for group in self.param_groups:
            group['count'] = 0

    def step(self, closure=None):
        for group in self.param_groups:
            group['count'] += 1
        return super().step(closure)


class Rates(Hook):
    """Records the settings of every step."""

    def __init__(self):
        self.found = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        group = runner.optim_wrapper.param_groups[-1]
        names = ('lr', 'momentum', 'betas', 'weight_decay', 'count')
        self.found[runner.iter] = {name: group[name] for name in names if name in group}


def rates(work_dir, epochs, schedule, stop=None, name='', batch_size=3, checkpoint=(), **optimizer):
    """Trains until an iteration or to the end, from the last checkpoint if there is one; returns the settings."""
    defaults = dict(type='CountingSGD', lr=0.01, momentum=0.9, weight_decay=0.1)
    runner = toy(
        work_dir,
        epochs=epochs,
        resume=True,
        name=name,
        optim_wrapper=dict(optimizer=optimizer if 'type' in optimizer else dict(defaults, **optimizer)),
        options=dict(param_scheduler=schedule),
        loader=dict(batch_size=batch_size),
        runner_type=SafeRunner,
        **dict(dict(interval=1), **dict(checkpoint)),
    )
    hook = Rates()
    runner.register_hook(hook)
    train_until(runner, stop)
    return hook.found


def assert_like_whole(resumed, whole, start=8, end=20):
    assert list(resumed) == list(range(start, end))
    for i, found in resumed.items():
        assert found == {name: pytest.approx(value, rel=1e-12) for name, value in whole[i].items()}, i


# schedules before the checkpoint and after it, and settings of the optimizer after it
CHANGES = {
    'milestones': ([STEPS], [LATER], {}),
    'milestones that have passed': ([LATER], [STEPS], {}),
    'a longer warm-up': ([WARM_UP, STEPS], [LONGER_WARM_UP, STEPS], {}),
    'a longer cosine': ([COSINE], [LONGER_COSINE], {}),
    'a cycle': ([ONE_CYCLE], [LONGER_CYCLE], {}),
    'another rate': ([WARM_UP, STEPS], [WARM_UP, STEPS], dict(lr=0.03)),
    'another schedule': ([STEPS], [COSINE], {}),
    'another schedule of the same settings': ([HALVES], [EXPONENTIAL], {}),
    'one schedule more': ([STEPS], [WARM_UP, STEPS], {}),
    'one schedule less': ([WARM_UP, STEPS], [STEPS], {}),
    'momentum': ([STEPS], [STEPS, MOMENTUM], {}),
    'weight decay': ([STEPS], [STEPS], dict(weight_decay=0.2)),
    'a rate without a schedule': (None, None, dict(lr=0.03)),
}


@pytest.mark.parametrize(
    'before, after, optimizer, stop', [*((*change, 8) for change in CHANGES.values()), (*CHANGES['milestones'], 10)]
)
def test_a_resumed_training_has_the_settings_of_its_config(before, after, optimizer, stop, tmp_path):
    rates(tmp_path / 'parts', 4, before, stop=stop + 1, checkpoint=dict(by_epoch=False, interval=stop))
    resumed = rates(tmp_path / 'parts', 5, after, name='resumed', **optimizer)
    assert_like_whole(resumed, rates(tmp_path / 'whole', 5, after, **optimizer), stop)
    assert 'the config differs from that of the checkpoint' in log_of(tmp_path / 'parts')


@pytest.mark.parametrize('optimizer', [dict(type='CountingSGD', lr=0.01, momentum=0.9), dict(type='Adam', lr=0.01)])
def test_nothing_is_said_and_no_bit_changes_where_the_config_is_the_same(optimizer, tmp_path):
    schedule = [WARM_UP, COSINE, MOMENTUM]
    rates(tmp_path / 'parts', 4, schedule, stop=9, **optimizer)
    resumed = rates(tmp_path / 'parts', 4, schedule, name='resumed', **optimizer)
    whole = rates(tmp_path / 'whole', 4, schedule, **optimizer)
    assert resumed == {i: found for i, found in whole.items() if i >= 8}
    states = [saved_at(tmp_path / name / 'epoch_4.pth')['param_schedulers'] for name in ('parts', 'whole')]
    assert states[0] == states[1] and 'differs' not in log_of(tmp_path / 'parts')


@pytest.mark.parametrize('state', ['save_optimizer', 'save_param_scheduler'])
def test_a_state_that_is_not_saved_is_no_other_learning_rate(state, tmp_path):
    checkpoint = {state: False}
    rates(tmp_path / 'parts', 4, [WARM_UP, STEPS], stop=9, checkpoint=checkpoint)
    resumed = rates(tmp_path / 'parts', 5, [WARM_UP, STEPS], name='resumed', checkpoint=checkpoint)
    whole = rates(tmp_path / 'whole', 5, [WARM_UP, STEPS])
    for found in (*resumed.values(), *whole.values()):
        del found['count']  # a state of the optimizer
    assert_like_whole(resumed, whole)


def test_other_batches_of_the_same_epochs_continue_at_the_epoch(tmp_path):
    """As with another number of processes; the schedule counts epochs in the config and iterations inside."""
    rates(tmp_path / 'parts', 4, [BY_ITERATIONS], stop=9)
    resumed = rates(tmp_path / 'parts', 4, [BY_ITERATIONS], name='resumed', batch_size=6)
    whole = rates(tmp_path / 'whole', 4, [BY_ITERATIONS], batch_size=6)
    assert [found['lr'] for found in resumed.values()] == pytest.approx([found['lr'] for found in whole.values()][4:])


def test_a_schedule_that_depends_on_results_goes_on(tmp_path):
    rates(tmp_path, 4, [PLATEAU], stop=9)
    assert rates(tmp_path, 4, [dict(PLATEAU, patience=5)], name='resumed', lr=0.03)[8]['lr'] == 0.01
    assert saved_at(tmp_path / 'epoch_4.pth')['param_schedulers'][0]['patience'] == 3
    assert 'goes on as in the checkpoint' in log_of(tmp_path)


def test_a_schedule_that_depends_on_results_starts_in_the_place_of_another(tmp_path):
    rates(tmp_path, 4, [WARM_UP, STEPS], stop=9)
    assert rates(tmp_path, 4, [PLATEAU], name='resumed')[8]['lr'] == 0.01
    state = saved_at(tmp_path / 'epoch_4.pth')['param_schedulers'][0]
    assert state['by_epoch'] is True and 'milestones' not in state

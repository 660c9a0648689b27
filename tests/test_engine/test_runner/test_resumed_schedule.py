"""A resumed training has the learning rate that a training by its config has there, and its other settings."""

import pytest
from helpers.tiny_runs import Stop, log_of, saved_at, toy
from mmengine.hooks import Hook

from apa_mmdet.engine.runner import SafeRunner

STEPS = dict(type='MultiStepLR', milestones=[1, 3], gamma=0.1)
LATER = dict(type='MultiStepLR', milestones=[3, 4], gamma=0.1)
WARM_UP = dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=6)
LONGER_WARM_UP = dict(WARM_UP, end=10)
COSINE = dict(type='CosineAnnealingLR', T_max=4)
LONGER_COSINE = dict(type='CosineAnnealingLR', T_max=6)
BY_ITERATIONS = dict(COSINE, convert_to_iter_based=True)
ONE_CYCLE, LONGER_CYCLE = (dict(type='OneCycleLR', eta_max=0.02, total_steps=n, by_epoch=False) for n in (16, 24))
MOMENTUM = dict(type='LinearMomentum', start_factor=0.5, begin=0, end=4)


class Rates(Hook):
    """Records learning rate, momentum and weight decay of every step."""

    def __init__(self):
        self.found = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        group = runner.optim_wrapper.param_groups[-1]
        self.found[runner.iter] = group['lr'], group['momentum'], group['weight_decay']


def rates(work_dir, epochs, schedule, stop=None, name='', interval=1, batch_size=3, by_epoch=True, **optimizer):
    """Trains until an iteration or to the end, from the last checkpoint if there is one."""
    optimizer = dict(dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.1), **optimizer)
    runner = toy(
        work_dir,
        epochs=epochs,
        resume=True,
        name=name,
        optim_wrapper=dict(optimizer=optimizer),
        options=dict(param_scheduler=schedule),
        loader=dict(batch_size=batch_size),
        runner_type=SafeRunner,
        interval=interval,
        by_epoch=by_epoch,
    )
    hook = Rates()
    runner.register_hook(hook)
    if stop:
        runner.register_hook(Stop(stop), 'LOWEST')
        with pytest.raises(KeyboardInterrupt):
            runner.train()
    else:
        runner.train()
    return hook.found


SGD = dict(lr=0.01)
# schedules and settings of the optimizer, before the checkpoint and after it
CHANGES = {
    'milestones': (([STEPS], SGD), ([LATER], SGD)),
    'milestones that have passed': (([LATER], SGD), ([STEPS], SGD)),
    'a longer warm-up': (([WARM_UP, STEPS], SGD), ([LONGER_WARM_UP, STEPS], SGD)),
    'a longer cosine': (([COSINE], SGD), ([LONGER_COSINE], SGD)),
    'a cycle': (([ONE_CYCLE], SGD), ([LONGER_CYCLE], SGD)),
    'another rate': (([WARM_UP, STEPS], SGD), ([WARM_UP, STEPS], dict(lr=0.03))),
    'another schedule': (([STEPS], SGD), ([COSINE], SGD)),
    'one schedule more': (([STEPS], SGD), ([WARM_UP, STEPS], SGD)),
    'one schedule less': (([WARM_UP, STEPS], SGD), ([STEPS], SGD)),
    'momentum': (([STEPS], SGD), ([STEPS, MOMENTUM], SGD)),
    'weight decay': (([STEPS], SGD), ([STEPS], dict(weight_decay=0.2))),
    'a rate without a schedule': ((None, SGD), (None, dict(lr=0.03))),
}


@pytest.mark.parametrize(
    'before, after, stop', [*((*change, 8) for change in CHANGES.values()), (*CHANGES['milestones'], 10)]
)
def test_a_resumed_training_has_the_settings_of_its_config(before, after, stop, tmp_path):
    saved = dict(by_epoch=False, interval=stop)
    rates(tmp_path / 'parts', 4, before[0], stop=stop + 1, **saved, **before[1])
    resumed = rates(tmp_path / 'parts', 5, after[0], name='resumed', **after[1])
    whole = rates(tmp_path / 'whole', 5, after[0], **after[1])
    assert list(resumed) == list(range(stop, 20))
    for i, found in resumed.items():
        assert found == pytest.approx(whole[i], rel=1e-12), i
    assert 'the config differs from that of the checkpoint' in log_of(tmp_path / 'parts')


def test_nothing_is_said_and_no_bit_changes_where_the_config_is_the_same(tmp_path):
    schedule = [WARM_UP, COSINE, MOMENTUM]
    rates(tmp_path / 'parts', 4, schedule, stop=9)
    assert rates(tmp_path / 'parts', 4, schedule, name='resumed') == {
        i: found for i, found in rates(tmp_path / 'whole', 4, schedule).items() if i >= 8
    }
    states = [saved_at(tmp_path / name / 'epoch_4.pth')['param_schedulers'] for name in ('parts', 'whole')]
    assert states[0] == states[1] and 'differs' not in log_of(tmp_path / 'parts')


def test_other_batches_of_the_same_epochs_continue_at_the_epoch(tmp_path):
    """As with another number of processes; the schedule counts epochs in the config and iterations inside."""
    rates(tmp_path / 'parts', 4, [BY_ITERATIONS], stop=9)
    resumed = rates(tmp_path / 'parts', 4, [BY_ITERATIONS], name='resumed', batch_size=6)
    whole = rates(tmp_path / 'whole', 4, [BY_ITERATIONS], batch_size=6)
    assert [rate for rate, *_ in resumed.values()] == pytest.approx([rate for rate, *_ in whole.values()][4:])


def test_a_schedule_that_depends_on_results_goes_on(tmp_path):
    plateau = dict(type='ReduceOnPlateauLR', monitor='loss', patience=3)
    rates(tmp_path, 4, [plateau], stop=9)
    assert rates(tmp_path, 4, [dict(plateau, patience=5)], name='resumed', lr=0.03)[8][0] == 0.01
    assert saved_at(tmp_path / 'epoch_4.pth')['param_schedulers'][0]['patience'] == 3
    assert 'goes on as in the checkpoint' in log_of(tmp_path)

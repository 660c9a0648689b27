"""A learning rate for other steps than the training's, and schedules that it does not reach the end of, are named."""

import pytest
from helpers.tiny_runs import log_of, toy, train_until

from apa_mmdet.engine.runner import SafeRunner
from apa_mmdet.engine.runner.learning_rate_checks import unreached_steps, wrong_step_size


def started(tmp_path, **options):
    """A runner of two epochs of four steps of three images, stopped after its first step."""
    runner = toy(tmp_path, options=options, runner_type=SafeRunner)
    train_until(runner, 1)
    return runner


ADAM = dict(type='Adam', lr=0.01)
TWICE = dict(type='OptimWrapper', optimizer=ADAM, accumulative_counts=2)


@pytest.mark.parametrize(
    'options, said',
    [
        (dict(), []),
        (dict(auto_scale_lr=dict(base_batch_size=3)), []),
        (dict(auto_scale_lr=dict(base_batch_size=16, enable=True)), []),
        (dict(auto_scale_lr=dict(base_batch_size=6), optim_wrapper=TWICE), []),
        (dict(auto_scale_lr=dict(base_batch_size=16)), ['3 images', '16 images', 'base_batch_size=3']),
        (
            dict(auto_scale_lr=dict(base_batch_size=3), optim_wrapper=TWICE),
            ['3 images x 2', '3 images:', 'base_batch_size=6'],
        ),
        (dict(auto_scale_lr=dict(base_batch_size=6, enable=True), optim_wrapper=TWICE), ['3 images x 2', '3 images;']),
    ],
)
def test_a_step_of_other_images_than_the_learning_rate_is_for(options, said, tmp_path):
    runner = started(tmp_path, **options)
    found = list(wrong_step_size(runner))
    assert len(found) == bool(said) and all(part in found[0] for part in said), found
    assert all(line in log_of(tmp_path) for line in found)


@pytest.mark.parametrize(
    'schedule, step',
    [
        (dict(type='MultiStepLR', milestones=[1], end=24), None),
        (dict(type='LinearLR', by_epoch=False, begin=0, end=8), None),
        (dict(type='CosineAnnealingLR', T_max=2), None),
        (dict(type='CosineAnnealingLR', T_max=2, convert_to_iter_based=True), None),
        (dict(type='ConstantLR', begin=1), None),
        (dict(type='MultiStepLR', milestones=[1, 16, 22]), '16, 22'),
        (dict(type='MultiStepLR', milestones=[2]), '2'),
        (dict(type='LinearLR', by_epoch=False, begin=0, end=500), '500'),
        (dict(type='CosineAnnealingLR', T_max=24), '24'),
        (dict(type='CosineAnnealingLR', T_max=2, begin=1, end=3), '3'),
        (dict(type='ConstantLR', begin=5, end=6), '5'),
    ],
)
def test_a_schedule_that_the_training_does_not_reach(schedule, step, tmp_path):
    runner = started(tmp_path, param_scheduler=[schedule])
    found = list(unreached_steps(runner))
    assert len(found) == (step is not None) and all(f'{step},' in line for line in found)
    assert all(line in log_of(tmp_path) for line in found)


def test_epochs_in_a_loop_of_iterations(tmp_path):
    options = dict(
        train_cfg=dict(type='ResumableIterBasedTrainLoop', max_iters=4),
        log_processor=dict(by_epoch=False),
        param_scheduler=[dict(type='MultiStepLR', milestones=[2, 6])],
    )
    (found,) = unreached_steps(started(tmp_path, **options))
    assert 'by_epoch=False' in found

"""Finds learning rates that do not fit the images of a step, and schedules that do not fit the length of a training."""

from collections.abc import Iterator
from itertools import chain

from mmengine.optim import _ParamScheduler
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader

ENDLESS = 10**9  # MMEngine's end of a schedule without one


def wrong_step_size(runner: Runner) -> Iterator[str]:
    """Yields a warning if a step has another number of images than the learning rate is for.

    The learning rate is for ``auto_scale_lr.base_batch_size`` images; a step has those of all processes, times
    ``accumulative_counts``, of which MMEngine's scaling knows nothing. Without ``auto_scale_lr`` nothing is known.
    """
    scaling, loader = runner.auto_scale_lr or {}, runner._train_dataloader
    base = scaling.get('base_batch_size')
    size = loader.batch_size if isinstance(loader, DataLoader) else loader.get('batch_size')
    if not base or not size:
        return
    counts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
    images = size * runner.world_size * counts
    parts = ((runner.world_size, 'processes'), (size, 'images'), (counts, 'accumulated batches'))
    parts = ' x '.join(f'{number} {what}' for number, what in parts if number > 1)
    if scaling.get('enable') and counts > 1:
        yield (
            f'a step has {parts}, but --auto-scale-lr, which ignores accumulation, scaled the learning rate to '
            f'{images // counts} images; use only one of them'
        )
    elif not scaling.get('enable') and images != base:
        yield (
            f'a step has {parts or "1 image"}, and by auto_scale_lr.base_batch_size the learning rate is for {base} '
            f'images: if so, use --auto-scale-lr; else set auto_scale_lr.base_batch_size={images}'
        )


def unreached_steps(runner: Runner) -> Iterator[str]:
    """Yields a warning of each schedule whose start, end or milestones come after the end of the training."""
    schedules = runner.param_schedulers or []
    for schedule in chain(*schedules.values()) if isinstance(schedules, dict) else schedules:
        of_epochs = schedule.by_epoch
        length, unit = (runner.max_epochs, 'epochs') if of_epochs else (runner.max_iters, 'iterations')
        found = _unreached(schedule, length)
        if of_epochs == isinstance(runner.train_loop, EpochBasedTrainLoop):
            option = 'max_epochs' if of_epochs else 'max_iters'
            advice = f'correct it, or give the length by --cfg-options {option}=N, which moves it along, '
            advice += f'not by train_cfg.{option}=N'
        else:  # a warm-up in iterations, or epochs in a loop of iterations, of which none ends before the training
            advice = 'set by_epoch=False' if of_epochs else 'shorten it'
        if found:
            yield f'{type(schedule).__name__} {found}, but training ends after {length} {unit}; {advice}'


def _unreached(schedule: _ParamScheduler, length: int) -> str:
    steps = sorted(schedule.begin + step for step in getattr(schedule, 'milestones', ()))
    late = [str(step) for step in steps if step >= length]
    if schedule.begin >= length:
        return f'begins at {schedule.begin}'
    if late:
        return f'has milestones at {", ".join(late)}'
    if not steps and length < schedule.end < ENDLESS:
        return f'ends at {schedule.end}'
    if schedule.begin + getattr(schedule, 'T_max', 0) > length:
        return f'has T_max={schedule.T_max}'
    return ''

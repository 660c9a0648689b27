"""Chooses the batch and the schedule."""

from typing import NamedTuple

from mmengine.config import Config

from . import rules
from .weights import Start


class Machine(NamedTuple):
    """Where the training runs: ``cpu`` or ``gpu``, the number of GPUs, memory of each in GiB, and CPU cores."""

    device: str
    gpus: int
    memory: float
    cores: int


class Batch(NamedTuple):
    """Images of a step on each GPU and in all, and worker processes for each GPU."""

    of_gpu: int
    of_step: int
    workers: int


class Schedule(NamedTuple):
    """Length of a training, epochs between validations, iterations of the warm-up, learning rate and its decay."""

    epochs: int
    val_interval: int
    warm_up: int
    lr: float
    is_cosine: bool


def choose_batch(
    images: int, machine: Machine, start: str, short: float, mask_classes: int, reserved: float
) -> tuple[Batch, list[str]]:
    """The batch, and why.

    Args:
        images: with an instance.
        machine, start: where the training runs, and the kind of weights that it starts from.
        short: short side of a median image as trained on.
        mask_classes: classes for which masks are predicted.
        reserved: GiB of a GPU that other things take.
    """
    few = f'1/{rules.LEAST_STEPS} of the {images} images'
    if machine.device == 'cpu':
        batch = max(1, min(rules.STEP_IMAGES['cpu'], images // rules.LEAST_STEPS))
        most = rules.STEP_IMAGES['cpu']
        return Batch(batch, batch, 1), [f'{_number(batch, "image")} a step, on a CPU: at most {most}, and {few}.']
    memory, pixels = machine.memory - reserved, rules.trained_pixels(short)
    batch = rules.images_per_gpu(images, machine.gpus, memory, pixels, mask_classes, start)
    workers = min(8, max(2, machine.cores // machine.gpus - 1))
    return Batch(batch, batch * machine.gpus, workers), [
        f'{_number(batch, "image")} on each of {_number(machine.gpus, "GPU")} of {machine.memory:g} GiB: at most '
        f'{rules.STEP_IMAGES["gpu"]} a step, what fits (computed, not tried), and {few}.',
        'Out of memory? Halve batch_size and give --auto-scale-lr.',
    ]


def _number(count: int, noun: str) -> str:
    return f'{count} {noun}{"s" * (count != 1)}'


def choose_schedule(
    base: Config,
    images: int,
    of_epoch: int,
    validated: int,
    step: int,
    machine: Machine,
    start: Start,
    has_tail: bool,
    epochs: int | None,
) -> tuple[Schedule, list[str]]:
    """The schedule, and why.

    Args:
        base: the config whose learning rate is scaled.
        images, of_epoch: with an instance, and of an epoch, in which some are repeated.
        validated: images of a validation.
        step: images of a step.
        machine, start: where the training runs, and the weights that it starts from.
        has_tail: whether there are rare classes.
        epochs: as asked for, or None.
    """
    why = 'as asked for' if epochs else f'for {images} images {start.phrase}'
    epochs = epochs or rules.epochs_of(images, of_epoch, machine.device, has_tail, start.kind)
    steps = max(1, of_epoch // step)
    interval = max(-(-epochs // rules.VALIDATIONS), round(validated / (rules.VALIDATED_SHARE * of_epoch)))
    interval = min(max(interval, 1), epochs)
    base_lr, base_step = base.optim_wrapper.optimizer.lr, base.auto_scale_lr.base_batch_size
    lr = base_lr * step / base_step * (rules.DETECTOR_LR_FACTOR if start.kind == 'detector' else 1)
    tenth = 'a tenth of ' * (start.kind == 'detector')
    schedule = Schedule(
        epochs, interval, max(1, min(rules.WARM_UP, epochs * steps // 10)), float(f'{lr:.3g}'), machine.device == 'cpu'
    )
    return schedule, [
        f'{epochs} epochs of {steps} steps, {why}.',
        f'Learning rate {lr:.3g}: {tenth}the {base_lr:g} of the base config, for {base_step} images a step, times '
        f'{step}/{base_step}.',
        f'{_number(validated, "image")} validated every {_number(interval, "epoch")}.',
    ]

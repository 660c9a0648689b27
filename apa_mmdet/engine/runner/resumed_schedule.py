"""A resumed training follows its config: settings of the optimizer, and schedules from the checkpoint's step on.

MMEngine takes both from the checkpoint, whatever the config says by then: a training that is made longer keeps the
milestones of the shorter one, and another learning rate or weight decay has no effect.
"""

import warnings
from collections.abc import Iterator
from inspect import signature
from typing import Any, NamedTuple

from mmengine.optim import OptimWrapper, OptimWrapperDict, _ParamScheduler
from mmengine.runner import Runner

from apa_mmdet.checkpoint.plain_data import as_plain

BATCHES = 'batches in an epoch'  # in a checkpoint of ExactResumeHook
# what the steps of a schedule change, those of ReduceOnPlateauLR too, and what changes nothing
POSITION = {'last_step', '_global_step', '_last_value', 'best', 'num_bad_epochs', 'cooldown_counter', 'verbose'}


class Planned(NamedTuple):
    """What the config says of an optimizer, read before a checkpoint is loaded.

    Attributes:
        name: among several optimizers, else None.
        optimizer, schedules: as built from the config, before the first step.
        groups: the settings of each group of parameters: learning rate, weight decay, momentum, …
    """

    name: str | None
    optimizer: OptimWrapper
    schedules: list[_ParamScheduler]
    groups: list[dict[str, Any]]


def planned_by_config(runner: Runner) -> list[Planned]:
    """Builds the optimizers and schedules, unless the runner has done so; returns what the config says of each."""
    if runner.optim_wrapper is None:  # a runner that only tests
        return []
    built = runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    schedules = runner.param_schedulers
    if schedules is not None:
        schedules = runner.param_schedulers = runner.build_param_scheduler(schedules)
    wrappers = dict(built.items()) if isinstance(built, OptimWrapperDict) else {None: built}
    return [
        Planned(
            name,
            wrapper,
            (schedules or []) if name is None else (schedules or {}).get(name, []),
            [{key: value for key, value in group.items() if key != 'params'} for group in wrapper.param_groups],
        )
        for name, wrapper in wrappers.items()
    ]


def follow_config(
    runner: Runner, planned: list[Planned], states: Any, has_optimizer: bool, batches: Any = None
) -> None:
    """Continues the schedules, after the states of the optimizers have been loaded.

    Where the config says what the checkpoint says, the checkpoint's states are loaded, exact to the last bit. Where it
    does not, the config counts, and a warning says what is different: a setting is set, and the schedules are stepped
    from their start to the checkpoint's epoch and iteration, so that the learning rate is the one that a training by
    this config has there. So they are if the checkpoint lacks one of the states. Only schedules with a
    ``ReduceOnPlateauLR``, whose steps depend on results, go on as in the checkpoint, or else start.

    Args:
        planned: what the config says.
        states: ``param_schedulers`` of the checkpoint; None if it has none.
        has_optimizer: whether the states of the optimizers have been loaded.
        batches: of an epoch when the checkpoint was written, if it is known.
    """
    for plan in planned:
        of_schedules = states.get(plan.name) if plan.name is not None and isinstance(states, dict) else states
        changes = list(_set_unscheduled(plan))
        if plan.schedules:
            changes += _continue_schedules(runner, plan, of_schedules, has_optimizer, batches)
        if changes:
            changes = '; '.join(dict.fromkeys(changes))
            runner.logger.warning(f'the config differs from that of the checkpoint: {changes}')


def _set_unscheduled(plan: Planned) -> Iterator[str]:
    """Sets the arguments of the optimizer that no schedule changes; yields the changes."""
    classes = type(plan.optimizer.optimizer).__mro__
    settings = {name for cls in classes for name in signature(cls.__init__).parameters} - _scheduled(plan)
    for group, wanted in zip(plan.optimizer.param_groups, plan.groups):
        for key in [key for key in wanted if key in settings]:
            if group.get(key, wanted[key]) != wanted[key]:
                yield f'{key} is {wanted[key]} now, not {group[key]}'
                group[key] = wanted[key]


def _scheduled(plan: Planned) -> set[str]:
    """The keys of a group that the schedules change or start from."""
    names = {schedule.param_name for schedule in plan.schedules}
    betas = {'betas'} if any(getattr(schedule, 'use_betas', False) for schedule in plan.schedules) else set()
    return names | betas | {f'initial_{name}' for name in names}


def _continue_schedules(runner: Runner, plan: Planned, states: Any, has_optimizer: bool, batches: Any) -> list[str]:
    """Loads the states, or steps the schedules from their start where these would not fit; returns the changes."""
    changes = [] if states is None else _changed_settings(plan.schedules, states)
    of_results = any(getattr(schedule, 'need_val_args', False) for schedule in plan.schedules)
    is_known = states is not None and has_optimizer
    if is_known and (not changes or (of_results and _are_of_same_kind(plan.schedules, states))):
        for schedule, state in zip(plan.schedules, states):
            schedule.load_state_dict(state)
        return changes and [*changes, 'the schedule, which depends on results, goes on as in the checkpoint']
    before = _values(plan)
    for group, wanted in zip(plan.optimizer.param_groups, plan.groups):
        group.update((key, wanted[key]) for key in _scheduled(plan) & wanted.keys())
    if of_results:
        return [*changes, 'the schedule, which depends on results, starts']
    _step(runner, plan.schedules, batches)
    now = _values(plan)
    return changes and changes + [f'{name} is {now[name]:.4g} from here on, not {before[name]:.4g}' for name in now]


def _are_of_same_kind(schedules: list[_ParamScheduler], states: Any) -> bool:
    """Whether states have the keys of the schedules; a checkpoint keeps no functions."""
    return isinstance(states, list) and [_keys(schedule.state_dict()) for schedule in schedules] == [
        _keys(state) for state in states
    ]


def _keys(state: Any) -> set[str]:
    return {key for key, value in state.items() if not callable(value)} if isinstance(state, dict) else set()


def _changed_settings(schedules: list[_ParamScheduler], states: Any) -> list[str]:
    if not _are_of_same_kind(schedules, states):
        return [f'the schedule is {", ".join(type(schedule).__name__ for schedule in schedules)} now']
    changes = []
    for schedule, state in zip(schedules, states):
        own = schedule.state_dict()
        for key in sorted(_keys(own) - POSITION):
            value, old = as_plain(own[key]), state[key]
            if old != value:
                if key == 'base_values':
                    key, value, old = f'the base {schedule.param_name}', max(value), max(old)
                changes.append(f'{key} of {type(schedule).__name__} is {_shown(value)}, not {_shown(old)}')
    return changes


def _shown(value: Any) -> str:
    return str(sorted(value) if isinstance(value, dict) else value)  # milestones are counted


def _values(plan: Planned) -> dict[str, float]:
    """What the schedules change, as it is now: the largest of all groups."""
    names = dict.fromkeys(schedule.param_name for schedule in plan.schedules)
    return {name: max(group[name] for group in plan.optimizer.param_groups) for name in names}


def _step(runner: Runner, schedules: list[_ParamScheduler], batches_then: Any) -> None:
    """Steps schedules from their start to the runner's epoch and iteration, as ParamSchedulerHook would have."""
    epochs, iterations = runner.epoch, runner.iter
    batches = len(runner.train_dataloader) if epochs else 0  # 0 too in a loop of iterations, which has no epochs
    if batches and isinstance(batches_then, int) and batches_then > 0:
        iterations = iterations * batches // batches_then  # the same place in the data, with more or fewer processes
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)  # about steps before those of the optimizer
        for iteration in range(1, iterations + 1):
            _step_those(schedules, by_epoch=False)
            if batches and iteration % batches == 0 and iteration // batches <= epochs:
                _step_those(schedules, by_epoch=True)
        for _ in range(iterations // batches if batches else 0, epochs):
            _step_those(schedules, by_epoch=True)


def _step_those(schedules: list[_ParamScheduler], by_epoch: bool) -> None:
    for schedule in schedules:
        if schedule.by_epoch == by_epoch:
            schedule.step()

"""Warnings about activations outside the range in which they learn."""

import math
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from apa_mmdet.models.activations import Healthy, LearnableFunction
from apa_mmdet.models.activations.sites import find_learnable_activations, watched_values
from apa_mmdet.utils.model import unwrap_model


@HOOKS.register_module()
class ActivationHealthHook(Hook):
    """Warns of activations that no longer learn or have left the range in which they compute well.

    Checks what every learnable activation, and the learnable link of a loss, lets hooks watch, at the end of each epoch
    and every ``interval`` iterations: whether it is finite and, where the activation names a range, within; λ of APA
    and AGLU, for example, has no gradient at its floor. Reports each problem of an activation once. A check is one copy
    from the GPU, whatever the number of activations; it is read at once, as MMEngine waits for every loss in each of
    those iterations anyway.

    Args:
        interval: iterations between two checks.
        healthy: ``(low, high)`` for parameters by name, instead of the ranges that activations name themselves.

    Raises:
        ValueError: if a range is not one; before training, if no activation of the model has a parameter of a name in
            ``healthy``.

    Example:
        >>> default_hooks = dict(activations=dict(type='ActivationHealthHook', healthy=dict(kappa=(-50, 50))))
    """

    def __init__(self, interval: int = 1000, healthy: dict[str, tuple[float, float]] | None = None) -> None:
        self.interval = interval
        self.healthy = {name: _range(name, bounds) for name, bounds in (healthy or {}).items()}
        self.reported: set[tuple[str, str]] = set()

    def before_train(self, runner: Runner) -> None:
        sites = find_learnable_activations(unwrap_model(runner.model), LearnableFunction)
        known = {name for site in sites for name in site.activation.watched()}
        unknown = ', '.join(name for name in self.healthy if name not in known)
        if unknown:
            raise ValueError(
                f'ActivationHealthHook: healthy names {unknown}, but the activations of the model have '
                f'{", ".join(sorted(known)) or "no parameters"}; remove it, or correct the name'
            )

    def after_train_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        if self.every_n_train_iters(runner, self.interval):
            self._check(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        self._check(runner)

    def _check(self, runner: Runner) -> None:
        alike: dict[tuple[str, Healthy], dict[str, np.ndarray]] = {}
        sites = find_learnable_activations(unwrap_model(runner.model), LearnableFunction)
        for site, name, values in watched_values(sites):
            symbol = site.activation.symbol_of(name)
            of_all = alike.setdefault((symbol.text, self.healthy.get(name, symbol.healthy)), {})
            of_all[f'{site.name}.{name}'] = values
        for (text, healthy), of_all in alike.items():
            outside = healthy.otherwise or f'{text} is not between {healthy.low:g} and {healthy.high:g}'
            is_bad = {name: ~healthy.holds(values) for name, values in of_all.items()}
            for problem, finite in ((f'{text} is not finite', False), (outside, True)):
                bad = {name: v[is_bad[name] & (np.isfinite(v) == finite)] for name, v in of_all.items()}
                self._report(runner, problem, {name: v for name, v in bad.items() if len(v)}, len(of_all))

    def _report(self, runner: Runner, problem: str, bad: dict[str, np.ndarray], count: int) -> None:
        new = {name: values for name, values in bad.items() if (problem, name) not in self.reported}
        if new:
            self.reported |= {(problem, name) for name in new}
            newer = f', {len(new)} of them new' if len(new) < len(bad) else ''
            runner.logger.warning(f'{problem}, in {len(bad)} of {count} activations{newer}: {_listing(new)}')


def _range(name: str, bounds: Any) -> Healthy:
    try:
        low, high = map(float, bounds)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not low < high:
        raise ValueError(f'ActivationHealthHook: healthy.{name} is {bounds!r}; it must be (lowest, highest)')
    return Healthy(low, high)


def _listing(bad: dict[str, np.ndarray], most: int = 8) -> str:
    """Names with the first bad value of each and the number of its bad values.

    Example:
        >>> _listing({'stem.kappa': np.array([40.]), 'out.kappa': np.array([31., 32.])})
        'stem.kappa 40, out.kappa 31 (2 values)'
    """
    parts = [f'{name} {p[0]:.3g}' + (f' ({len(p)} values)' if len(p) > 1 else '') for name, p in bad.items()]
    return ', '.join(parts[:most]) + (f' and {len(parts) - most} more' if len(parts) > most else '')

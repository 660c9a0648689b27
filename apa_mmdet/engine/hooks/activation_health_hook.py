"""Warnings about activations outside the range in which they learn."""

from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from apa_mmdet.ops import LAMBDA_FLOOR
from apa_mmdet.utils.model import unwrap_model


@HOOKS.register_module()
class ActivationHealthHook(Hook):
    """Warns of activations that no longer learn or have left the range in which they compute well.

    - λ at its floor of 1e-4, where it has no gradient: only weight decay could move it. The activation stays the Gumbel
      link there.
    - |κ| above ``max_kappa``: AGLU is ReLU to 0.7 / κ there, and APA a step whose slope of about κ / 4 at 0 makes
      gradients spiky. 30 is three times the initial value of the configs that imitate ReLU.
    - either not finite.

    Checks every parameter called ``lambda_`` or ``kappa`` at the end of each epoch and every ``interval`` iterations,
    and reports an activation once. A check is one copy from the GPU, whatever the number of activations; it is read at
    once, as MMEngine waits for every loss in each of those iterations anyway.

    Args:
        interval: iterations between two checks.
        max_kappa: the largest |κ| that is not reported.

    Example:
        >>> default_hooks = dict(activations=dict(type='ActivationHealthHook', max_kappa=50.))  # in a config
    """

    def __init__(self, interval: int = 1000, max_kappa: float = 30.0) -> None:
        self.interval, self.max_kappa = interval, max_kappa
        self.reported: set[str] = set()

    def after_train_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        if self.every_n_train_iters(runner, self.interval):
            self._check(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        self._check(runner)

    @torch.no_grad()
    def _check(self, runner: Runner) -> None:
        learned = _on_host(
            {n: p for n, p in unwrap_model(runner.model).named_parameters() if n.split('.')[-1] in ('lambda_', 'kappa')}
        )
        for parameter, problem, is_good in (
            ('lambda_', f'λ is at its floor of {LAMBDA_FLOOR:g}, where it has no gradient', lambda p: p > LAMBDA_FLOOR),
            ('kappa', f'|κ| is above {self.max_kappa:g}', lambda p: abs(p) <= self.max_kappa),
        ):
            values = {name: p for name, p in learned.items() if name.split('.')[-1] == parameter}
            bad = {name: p[~is_good(p)] for name, p in values.items() if not is_good(p).all()}  # nan is not good either
            new = {name: p for name, p in bad.items() if name not in self.reported}
            if new:
                self.reported |= new.keys()
                newer = f', {len(new)} of them new' if len(new) < len(bad) else ''
                runner.logger.warning(f'{problem}, in {len(bad)} of {len(values)} activations{newer}: {_listing(new)}')


def _on_host(parameters: dict[str, Tensor]) -> dict[str, np.ndarray]:
    if not parameters:
        return {}
    values = torch.cat([p.flatten() for p in parameters.values()]).float().cpu().numpy()
    return dict(zip(parameters, np.split(values, np.cumsum([p.numel() for p in parameters.values()])[:-1])))


def _listing(bad: dict[str, np.ndarray], most: int = 8) -> str:
    """Names with the first bad value of each and the number of its bad values.

    Example:
        >>> _listing({'stem.kappa': np.array([40.]), 'out.kappa': np.array([31., 32.])})
        'stem.kappa 40, out.kappa 31 (2 values)'
    """
    parts = [f'{name} {p[0]:.3g}' + (f' ({len(p)} values)' if len(p) > 1 else '') for name, p in bad.items()]
    return ', '.join(parts[:most]) + (f' and {len(parts) - most} more' if len(parts) > most else '')

"""Warns of activations outside the range in which they learn."""

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from apa_mmdet.ops.apa import LAMBDA_FLOOR
from apa_mmdet.utils.model import unwrap_model


@HOOKS.register_module()
class ActivationHealthHook(Hook):
    """Warns of activations that have stopped to learn or left the range in which they compute well.

    - λ at its floor of 1e-4, where it has no gradient: only weight decay could move it. The activation is the Gumbel
      link there, for good.
    - |κ| above ``max_kappa``: AGLU is ReLU to 0.7 / κ there, APA a step, whose slope of about κ / 4 at 0 makes
      gradients spiky. 30 is three times what our configs start with where ReLU is to be imitated.
    - either not finite.

    It looks at every parameter called ``lambda_`` or ``kappa``, at the end of each epoch and every ``interval``
    iterations, and speaks of a site once.

    Args:
        interval: iterations between two looks.
        max_kappa: the largest |κ| that is not reported.

    Example:
        >>> default_hooks = dict(activations=dict(type='ActivationHealthHook', max_kappa=50.))  # in a config
    """

    def __init__(self, interval: int = 1000, max_kappa: float = 30.0) -> None:
        self.interval, self.max_kappa = interval, max_kappa
        self.known: set[str] = set()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        if self.every_n_train_iters(runner, self.interval):
            self._look(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        self._look(runner)

    @torch.no_grad()
    def _look(self, runner: Runner) -> None:
        model = unwrap_model(runner.model)
        for kind, what, is_good in (
            ('lambda_', f'λ is at its floor of {LAMBDA_FLOOR:g}, where it has no gradient', lambda p: p > LAMBDA_FLOOR),
            ('kappa', f'|κ| is above {self.max_kappa:g}', lambda p: p.abs() <= self.max_kappa),
        ):
            found = {name: p for name, p in model.named_parameters() if name.split('.')[-1] == kind}
            bad = {name: p[~is_good(p)] for name, p in found.items() if not is_good(p).all()}  # nan is not good either
            new = {name: values for name, values in bad.items() if name not in self.known}
            if new:
                self.known |= new.keys()
                newer = f', {len(new)} of them new' if len(new) < len(bad) else ''
                runner.logger.warning(f'{what}, in {len(bad)} of {len(found)} sites{newer}: {_listing(new)}')


def _listing(bad: dict[str, Tensor], most: int = 8) -> str:
    """Names with the first bad value of each and how many there are.

    Example:
        >>> _listing({'stem.kappa': torch.tensor([40.]), 'out.kappa': torch.tensor([31., 32.])})
        'stem.kappa 40, out.kappa 31 (2 values)'
    """
    told = [f'{name} {p[0].item():.3g}' + (f' ({len(p)} values)' if len(p) > 1 else '') for name, p in bad.items()]
    return ', '.join(told[:most]) + (f' and {len(told) - most} more' if len(told) > most else '')

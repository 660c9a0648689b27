"""Logs of what the activations learn."""

from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from apa_mmdet.models.activations import LearnableFunction
from apa_mmdet.models.activations.sites import find_learnable_activations, watched_values
from apa_mmdet.utils.errors import one_line
from apa_mmdet.utils.model import unwrap_model
from apa_mmdet.visualization.learned_activation_plots import draw_learned_activations


@HOOKS.register_module()
class ActivationStatsHook(Hook):
    """Logs the parameters of all learnable activations by stage, and draws the learned curves at the end of training.

    Scalars go to the visualizer, so to every backend of the config, every ``interval`` iterations and at the end of
    each epoch, with the iteration as their step as the losses have it: see :func:`statistics_of` for their names. One
    copy from the GPU each time, whatever the number of activations.

    After training, ``activations_values.png`` and ``activations_derivatives.png`` in the work dir show the curve of
    every learnable activation. An image that cannot be drawn or written costs a warning, not the run.

    A model without learnable activations is ignored. Only the first of several processes logs and draws.

    Args:
        interval: iterations between two logs.

    Example:
        >>> default_hooks = dict(activation_stats=dict(type='ActivationStatsHook', interval=50))  # in a config
    """

    def __init__(self, interval: int = 100) -> None:
        self.interval = interval

    def after_train_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        last = self.end_of_epoch(runner.train_dataloader, batch_idx) or self.is_last_train_iter(runner)
        if last or self.every_n_train_iters(runner, self.interval):
            self._log(runner)

    @master_only
    def _log(self, runner: Runner) -> None:
        found = statistics_of(unwrap_model(runner.model))
        if found:
            step = runner.iter + 1
            runner.visualizer.add_scalars(dict(found, iter=step), step=step)  # W&B takes no step, but can plot over one

    @master_only
    def after_train(self, runner: Runner) -> None:
        sites = find_learnable_activations(unwrap_model(runner.model))
        if not sites:
            return
        work_dir = Path(runner.work_dir)
        title = f'{work_dir.name}, iteration {runner.iter}'
        try:
            paths = draw_learned_activations(sites, title, work_dir, 'activations')
        except Exception as error:  # the training is worth more than an image
            runner.logger.warning(f'the learned activations were not drawn: {one_line(error)}')
        else:
            runner.logger.info(f'learned activations drawn: {", ".join(map(str, paths))}')


def statistics_of(model: nn.Module) -> dict[str, float]:
    """Returns minimum, mean and maximum of what the learnable activations of each stage, and links, let hooks watch.

    Every set of parameters counts. The names are ``<parameter>/<stage>/<activation>/<statistic>``, such as
    ``kappa/layer1/AGLU/mean``, with the statistics ``min``, ``mean`` and ``max`` and, where the activation names a
    healthy range, ``unhealthy``, the share of values outside. TensorBoard and W&B group by the part before the first
    slash. Gates are another activation than their stage, and so separate.

    Returns:
        Python floats, which every backend accepts; empty for a model without learnable activations.

    Example:
        >>> from apa_mmdet.models.activations import AGLU
        >>> found = statistics_of(nn.ModuleDict(dict(neck=AGLU(lambda_init=(0.5, 0.5)))))
        >>> found['lambda/neck/AGLU/mean'], found['lambda/neck/AGLU/unhealthy']
        (0.5, 0.0)
    """
    groups: dict[str, list[np.ndarray]] = {}
    outside: dict[str, list[np.ndarray]] = {}
    for site, name, values in watched_values(find_learnable_activations(model, LearnableFunction)):
        group = f'{name.rstrip("_")}/{site.stage}/{type(site.activation).__name__}'
        groups.setdefault(group, []).append(values)
        healthy = site.activation.symbol_of(name).healthy
        if healthy.is_bounded:
            outside.setdefault(group, []).append(~healthy.holds(values))
    found = {}
    for group, parts in groups.items():
        numbers = np.concatenate(parts)
        found |= {f'{group}/{what}': float(getattr(numbers, what)()) for what in ('min', 'mean', 'max')}
        if group in outside:
            found[f'{group}/unhealthy'] = float(np.concatenate(outside[group]).mean())
    return found

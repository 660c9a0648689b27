"""Skipping of steps whose loss or gradient is not finite."""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from apa_mmdet.utils.model import unwrap_model

NORM_STATISTICS = 'running_mean', 'running_var', 'num_batches_tracked'


@HOOKS.register_module()
class SkipNonFiniteHook(Hook):
    """Skips a step whose loss or gradient is not finite, and stops training after too many of them in a row.

    Parameters, optimizer state and the running statistics of norms then stay what they were, in every process; one line
    names the first loss that is not finite, or else the first parameter, in the order of the model, whose gradient is
    not. Of accumulated gradients, the whole step is skipped.

    A good step costs a pass over the gradients (their norms; a norm that overflows is not finite either, since clipping
    would turn all gradients into zeros), one synchronization with the GPU and, with several processes, the reduction of
    two numbers; statistics of norms in training mode are copied. The synchronization cannot come later: a step that an
    optimizer has made could be undone only with a copy of all weights and of its state. MMEngine waits as well, for
    each loss after the step, and for the norm of the gradients before it where they are clipped.

    Where a loss scale adapts itself (float16), it deals with overflowing gradients, and they are no failure as long as
    the scale is at least ``min_scale``.

    Args:
        max_in_a_row: number of failures in a row that stops the training.
        min_scale: the lowest loss scale at which an overflow is normal.

    Raises:
        ValueError: for several optimizers (OptimWrapperDict): when the gradients of one are bad, others have stepped.
        FloatingPointError: after ``max_in_a_row`` failures.

    Example:
        >>> default_hooks = dict(finite=dict(type='SkipNonFiniteHook', max_in_a_row=5))  # in a config
    """

    def __init__(self, max_in_a_row: int = 10, min_scale: float = 1.0) -> None:
        self.max_in_a_row, self.min_scale = max_in_a_row, min_scale
        self.failures_in_a_row = 0
        self.losses: list[tuple[str, Tensor]] = []  # of the forward passes since the last step

    def before_train(self, runner: Runner) -> None:
        """Observes the model's losses and guards the optimizer's steps."""
        wrapper = runner.optim_wrapper
        if isinstance(wrapper, OptimWrapperDict):
            raise ValueError(
                'SkipNonFiniteHook skips the steps of one optimizer, and this config has several '
                f'({", ".join(wrapper.keys())}): remove the hook from default_hooks'
            )
        self.model = unwrap_model(runner.model)
        self.model.register_forward_hook(self._record_losses)
        self.norms = [module for module in self.model.modules() if hasattr(module, NORM_STATISTICS[0])]
        # MMEngine calls no hook between backward and step, and the config (or --amp) chooses the wrapper's type
        wrapper.step = self._guarded(wrapper.step, wrapper, runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        if not self.losses:  # not between accumulated gradients
            self.statistics = [
                (buffer, buffer.clone())
                for norm in self.norms
                if norm.training
                for buffer in map(norm._buffers.get, NORM_STATISTICS)
                if buffer is not None
            ]

    def _record_losses(self, model: nn.Module, inputs: tuple, outputs: Any) -> None:
        if model.training and isinstance(outputs, dict):
            for name, value in outputs.items():
                if 'loss' in name:
                    values = value if isinstance(value, (list, tuple)) else [value]
                    self.losses += [(name, one.detach()) for one in values]

    def _guarded(self, step: Callable, wrapper: OptimWrapper, runner: Runner) -> Callable:

        @wraps(step)  # schedulers mark it
        def guarded(**kwargs) -> None:
            losses, self.losses = self.losses, []
            parameters = [p for group in wrapper.optimizer.param_groups for p in group['params']]
            gradients = [_values(p.grad) for p in parameters if p.grad is not None]
            loss_is_finite, gradient_is_finite = _finite([loss for _, loss in losses], gradients)
            scaler = getattr(wrapper, 'loss_scaler', None)
            scaled = scaler is not None and scaler.is_enabled()
            adapts = scaled and wrapper._scale_update_param is None
            if loss_is_finite and (gradient_is_finite or (adapts and scaler.get_scale() >= self.min_scale)):
                self.failures_in_a_row = 0 if gradient_is_finite else self.failures_in_a_row
                return step(**kwargs)
            self._fail(runner, self._reason(losses))
            if loss_is_finite and scaled:
                step(**kwargs)  # the scaler does not touch the parameters either, and counts

        return guarded

    def _fail(self, runner: Runner, reason: str) -> None:
        """Restores what the forward passes changed, and logs or raises."""
        for buffer, before in self.statistics:
            buffer.copy_(before)
        self.failures_in_a_row += 1
        iteration = f'iteration {runner.iter + 1}'
        if self.failures_in_a_row < self.max_in_a_row:
            runner.logger.warning(
                f'{iteration}: step skipped, {reason} '
                f'({self.failures_in_a_row} in a row, {self.max_in_a_row} stop the training)'
            )
            return
        bad = _first_not_finite(self.model.state_dict().items())
        advice = (
            f'{bad[0]} itself is {bad[1]}: resume from an earlier checkpoint'
            if bad
            else 'the weights are finite: check the images and boxes of these iterations, the weights of the losses '
            'and the learning rate'
        )
        raise FloatingPointError(f'{iteration}: {reason}; {self.failures_in_a_row} steps in a row failed; {advice}')

    def _reason(self, losses: list[tuple[str, Tensor]]) -> str:
        """The first loss or gradient that is not finite, the same in every process."""
        of_processes = all_gather_object(_first_not_finite(losses))
        for rank, bad in enumerate(of_processes):
            if bad:
                return f'{bad[0]} is {bad[1]}' + (f' in process {rank}' if len(of_processes) > 1 else '')
        bad = _first_not_finite((name, _values(p.grad)) for name, p in self.model.named_parameters())
        return f'the gradient of {bad[0]} is {bad[1]}' if bad else 'the norm of the gradients overflows'


def _values(gradient: Tensor | None) -> Tensor | None:
    return gradient.coalesce().values() if gradient is not None and gradient.is_sparse else gradient


def _finite(losses: list[Tensor], gradients: list[Tensor]) -> tuple[bool, bool]:
    """Whether all losses and all gradients are finite, the same answer in every process."""
    # on a CPU the largest magnitude, which would not overflow, takes seven times as long
    norms = torch._foreach_norm(gradients) if gradients else []
    device = next((one.device for one in (*gradients, *losses)), None)  # a loss that is only logged may be on the CPU
    answers = torch.ones(2, dtype=torch.int, device=device)
    sums = [loss.sum().to(device, non_blocking=loss.is_cpu) for loss in losses]  # from a GPU it could be read too early
    for i, values in enumerate((sums, norms)):
        if len(values):
            answers[i] = torch.stack(list(values)).isfinite().all()
    all_reduce(answers, 'min')
    return tuple(map(bool, answers.tolist()))


def _first_not_finite(named: Iterable[tuple[str, Tensor | None]]) -> tuple[str, str] | None:
    """Name of the first tensor that is not finite, and ``nan`` or ``inf``."""
    for name, tensor in named:
        if tensor is not None and not tensor.isfinite().all():
            return name, 'nan' if tensor.isnan().any() else 'inf'
    return None

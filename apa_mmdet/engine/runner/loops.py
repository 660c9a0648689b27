"""Training loops that can be resumed exactly."""

from typing import Any

import torch
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from .seeded_data import PositionBatchSampler, with_positions


class ResumableLoopMixin:
    """Loads every item from random numbers of its position (:mod:`apa_mmdet.engine.runner.seeded_data`).

    A data loader that is not given as a config is used as it is.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> None:
        if isinstance(dataloader, dict):
            dataloader = with_positions(dataloader, runner.seed)
        super().__init__(runner, dataloader, *args, **kwargs)

    @property
    def positions(self) -> PositionBatchSampler | None:
        """The batch sampler that gives each index its position; None for a data loader that was built elsewhere."""
        batches = self.dataloader.batch_sampler
        return batches if isinstance(batches, PositionBatchSampler) else None


@LOOPS.register_module()
class ResumableEpochBasedTrainLoop(ResumableLoopMixin, EpochBasedTrainLoop):
    """MMEngine's EpochBasedTrainLoop, which can also start in the middle of an epoch.

    Together with ExactResumeHook, a resumed run equals the uninterrupted one; see docs/fault_tolerance.md.

    Example:
        >>> train_cfg = dict(type='ResumableEpochBasedTrainLoop', max_epochs=12)  # in a config
    """

    batches_done = 0  # of the next epoch; set by ExactResumeHook

    def run_epoch(self) -> None:
        """Runs an epoch without its first :attr:`batches_done` batches, which are not loaded."""
        done, self.batches_done = self.batches_done, 0
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        if self.positions:
            self.positions.start_epoch(self.runner.seed, self._epoch, skip=done)
        for i, data_batch in enumerate(self.dataloader, start=done if self.positions else 0):
            if i >= done:
                self.run_iter(i, data_batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


@LOOPS.register_module()
class ResumableIterBasedTrainLoop(ResumableLoopMixin, IterBasedTrainLoop):
    """MMEngine's IterBasedTrainLoop, with data that does not depend on the number of workers.

    MMEngine loads again what was loaded before the checkpoint, and the order of the data is that of the uninterrupted
    run only if the config sets ``randomness.seed``; see docs/fault_tolerance.md.

    Example:
        >>> train_cfg = dict(type='ResumableIterBasedTrainLoop', max_iters=90000)  # in a config
    """

    def run(self) -> torch.nn.Module:
        """Trains."""
        if self.positions:
            self.positions.seed = self.runner.seed  # of the checkpoint
        return super().run()

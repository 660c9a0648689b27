"""Training loops that can be resumed exactly."""

from typing import Any

import torch
from mmengine.registry import LOOPS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from .endless_batches import EndlessBatches, NoBatches, NotStarted, Place
from .seeded_data import PositionBatchSampler, with_positions


class ResumableLoopMixin:
    """Loads every item from random numbers of its position (:mod:`apa_mmdet.engine.runner.seeded_data`).

    A data loader that is not given as a config is used as it is.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> None:
        super().__init__(runner, _with_positions(dataloader, runner), *args, **kwargs)

    @property
    def positions(self) -> PositionBatchSampler | None:
        """The batch sampler that gives each index its position; None for a data loader that was built elsewhere."""
        batches = self.dataloader.batch_sampler
        return batches if isinstance(batches, PositionBatchSampler) else None


def _with_positions(dataloader: DataLoader | dict, runner: Runner) -> DataLoader | dict:
    return with_positions(dataloader, runner.seed) if isinstance(dataloader, dict) else dataloader


@LOOPS.register_module()
class ResumableEpochBasedTrainLoop(ResumableLoopMixin, EpochBasedTrainLoop):
    """MMEngine's EpochBasedTrainLoop, which can also start in the middle of an epoch.

    Together with ExactResumeHook, a resumed run equals the uninterrupted one; see docs/fault_tolerance.md.

    Raises:
        NoBatches: while it trains, if the data loader has none.

    Example:
        >>> train_cfg = dict(type='ResumableEpochBasedTrainLoop', max_epochs=12)  # in a config
    """

    batches_done = 0  # of the next epoch; set by ExactResumeHook

    def run_epoch(self) -> None:
        """Runs an epoch without its first :attr:`batches_done` batches, which are not loaded."""
        done, self.batches_done = self.batches_done, 0
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        positions = self.positions
        if positions is not None:  # it may have no batch
            positions.start_epoch(self.runner.seed, self._epoch, skip=done)
        any_batch = done > 0
        for i, data_batch in enumerate(self.dataloader, start=done if positions is not None else 0):
            any_batch = True
            if i >= done:
                self.run_iter(i, data_batch)
        if not any_batch:
            raise NoBatches.of_training()
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1


@LOOPS.register_module()
class ResumableIterBasedTrainLoop(ResumableLoopMixin, IterBasedTrainLoop):
    """MMEngine's IterBasedTrainLoop, which a resumed run continues at once: it draws the indices of what was trained on
    before, and loads none of it.

    Together with ExactResumeHook, a resumed run equals the uninterrupted one; see docs/fault_tolerance.md. MMEngine's
    starts its workers in the constructor, before it knows where to begin, and loads all that was loaded before.

    Raises:
        NoBatches: while it trains, if the data loader has none.

    Example:
        >>> train_cfg = dict(type='ResumableIterBasedTrainLoop', max_iters=90000)  # in a config
    """

    dataloader: DataLoader

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> None:
        BaseLoop.__init__(self, runner, _with_positions(dataloader, runner))
        loader = self.dataloader
        super().__init__(runner, loader if self.positions is None else NotStarted(loader), *args, **kwargs)
        self.dataloader = loader

    @property
    def place(self) -> Place | None:
        """Where the next batch lies; None for a data loader that was built elsewhere. ExactResumeHook sets it."""
        return getattr(self.dataloader_iterator, 'place', None)

    @place.setter
    def place(self, place: Place) -> None:
        self.dataloader_iterator.place = place

    def run(self) -> torch.nn.Module:
        """Trains."""
        if self.positions is not None:  # it may have no batch
            start = Place(0, self._iter)  # counted from the first batch of the run, unless a checkpoint says more
            passed = 0 if getattr(self, 'fast_forward_on_resume', False) else self._iter  # OneDL's loop may not ask
            self.dataloader_iterator = EndlessBatches(self.dataloader, self.positions, self.runner.seed, start, passed)
        return super().run()

"""The batches of a training that counts iterations: one epoch of a data loader after the other."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch.utils.data import DataLoader

from apa_mmdet.utils.errors import CodedError

from .seeded_data import PositionBatchSampler


class NoBatches(CodedError):
    """Raised when an epoch of the data loader has no batch at all; code ``no-batches``."""

    @classmethod
    def of_training(cls) -> 'NoBatches':
        """The error about ``train_dataloader``."""
        return cls(
            'no-batches',
            'train_dataloader gives no batch: its data set is empty, or smaller than batch_size with drop_last',
        )


class Place(NamedTuple):
    """Where the next batch lies: the epoch of the data loader, and the batches before it in that epoch.

    A training of iterations has no epochs, but a finite sampler orders its indices again in each.
    """

    epoch: int = 0
    batches: int = 0


class NotStarted:
    """Stands for a data loader where a loop would start its workers before it knows where to begin."""

    def __init__(self, loader: DataLoader) -> None:
        self.dataset = loader.dataset

    def __iter__(self) -> Iterator:
        return iter(())


class EndlessBatches:
    """Iterates over a data loader from a place on; what lies before is drawn as indices and not loaded.

    The loader starts its workers when the first batch is asked for.

    Args:
        loader: the data loader.
        positions: its batch sampler.
        seed: of the run.
        place: of the first batch. If its epoch has fewer batches than are to be skipped, the next ones follow.
        passed: how often ``next`` gives None first, for a loop that advances to its place batch by batch.

    Attributes:
        place: of the next batch.

    Raises:
        NoBatches: from ``next``, if an epoch has no batch.
    """

    def __init__(
        self, loader: DataLoader, positions: PositionBatchSampler, seed: int, place: Place, passed: int = 0
    ) -> None:
        self.loader, self.positions, self.seed, self.place, self.passed = loader, positions, seed, place, passed
        self._epoch: Iterator | None = None  # of the loader

    def __iter__(self) -> 'EndlessBatches':
        return self

    def __next__(self) -> Any:
        if self.passed:
            self.passed -= 1
            return None
        while True:
            if self._epoch is None:
                self._epoch = self._start_epoch()
            for batch in self._epoch:
                self.place = Place(self.place.epoch, self.place.batches + 1)
                return batch
            self._end_epoch()

    def skip_iter(self, num_iters: int) -> None:
        """Advances a loop to its place at once, as OneDL's does."""
        self.passed = max(0, self.passed - num_iters)

    def _start_epoch(self) -> Iterator:
        if hasattr(self.positions.sampler, 'set_epoch'):
            self.positions.sampler.set_epoch(self.place.epoch)
        self.positions.start_epoch(self.seed, self.place.epoch, skip=self.place.batches)
        return iter(self.loader)

    def _end_epoch(self) -> None:
        if not self.positions.place:  # no index was drawn
            raise NoBatches.of_training()
        self._epoch = None
        self.place = Place(self.place.epoch + 1, self.positions.skip)

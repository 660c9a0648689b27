"""A resumed run draws the random numbers that the uninterrupted one would have drawn.

Instead of saving the state of every generator in every process, numbers are made to depend on the place they are drawn
at: a step of the model on (seed, iteration, process), an item of the data set on (seed, epoch, place in the epoch,
index). That also makes the data independent of how many workers load it, and of how many processes where the sampler
deals its images out in turn.
"""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader, get_worker_info

STEP, ITEM = 0, 1  # no numbers of the one are those of the other
BATCHES, SAMPLER_SEED = 'batches in an epoch', 'seed of the order'


def seed_generators(*place: int) -> None:
    """Seed Python's, NumPy's and torch's generators of this process from non-negative integers.

    Example:
        >>> seed_generators(0, 5)
        >>> first = torch.rand(1).item(), np.random.rand(), random.random()
        >>> seed_generators(0, 5)
        >>> first == (torch.rand(1).item(), np.random.rand(), random.random())
        True
    """
    words = np.random.SeedSequence((len(place), *place)).generate_state(3)  # to it, a zero at the end is nothing
    random.seed(int(words[0]))
    np.random.seed(words[1])  # noqa: NPY002  transforms draw from it
    # for a GPU that is not there torch.manual_seed would format the stack, which takes longer than the rest
    (torch.default_generator if get_device() == 'cpu' else torch).manual_seed(int(words[2]))


class SeededItems:
    """What a DataLoader asks for a batch, as ``dataset.__getitems__``: each item from random numbers of its own.

    An index that a sampler repeats within an epoch draws others each time.

    Args:
        dataset: the outermost data set.
        seed: seed of the run.
        batch_size: how many items are a batch.
    """

    def __init__(self, dataset: Any, seed: int, batch_size: int) -> None:
        self.dataset, self.seed, self.batch_size = dataset, seed, batch_size
        self.rank, self.processes = get_rank(), get_world_size()
        self.now = torch.zeros(2, dtype=torch.long).share_memory_()  # with the worker processes
        self.epoch, self.calls = -1, 0  # of this process

    def begin(self, epoch: int, skip: int = 0) -> None:
        """Begin an epoch, of which nobody will look at the first ``skip`` batches; they are not loaded."""
        self.now.copy_(torch.tensor([epoch, skip]))

    def __call__(self, indices: Sequence[int]) -> list[Any]:
        epoch, skip = self.now.tolist()
        if epoch != self.epoch:
            self.epoch, self.calls = epoch, 0
        worker = get_worker_info()
        # batches go to the workers in turn
        batch = self.calls * worker.num_workers + worker.id if worker else self.calls
        self.calls += 1
        if batch < skip:
            return [None] * len(indices)
        return [self._item(batch * self.batch_size + i, index) for i, index in enumerate(indices)]

    def _item(self, place: int, index: int) -> Any:
        seed_generators(ITEM, self.seed, self.epoch, place * self.processes + self.rank, index)
        return self.dataset[index]


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Makes ``--resume`` continue as if nothing had happened, also from a checkpoint in the middle of an epoch.

    MMEngine restores weights, optimizer, schedulers and logs, but no random numbers, not the order of the data where
    the config sets no seed, and it repeats an epoch from its start. docs/fault_tolerance.md says for which settings a
    resumed run equals the uninterrupted one bit for bit; what breaks it is logged.

    Example:
        >>> default_hooks = dict(resume=dict(type='ExactResumeHook'))  # in a config
    """

    def __init__(self) -> None:
        self.recorded: dict[str, Any] = {}

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['meta']['resume'] = _circumstances(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self.recorded = checkpoint.get('meta', {}).get('resume', {})

    def before_train(self, runner: Runner) -> None:
        """Restore the order of the data, and give every item random numbers of its own."""
        loop, loader = runner.train_loop, runner.train_dataloader
        self.by_epoch = isinstance(loop, EpochBasedTrainLoop)
        self.done = 0 if self.by_epoch else runner.iter
        if runner.iter:  # resumed
            if self.by_epoch and SAMPLER_SEED in self.recorded:
                _sampler(loader).seed = self.recorded[SAMPLER_SEED]
            _log_differences(runner, self.recorded)
            if self.by_epoch and self.recorded.get(BATCHES) == len(loader):
                self.done = runner.iter - runner.epoch * len(loader)
        self.items = None
        # an iteration-based loop has started its workers by now; it loads again what was loaded before the checkpoint
        if self.by_epoch or loader.num_workers == 0:
            size = np.max(getattr(loader.batch_sampler, 'batch_size', 1))  # there may be several
            self.items = loader.dataset.__getitems__ = SeededItems(loader.dataset, runner.seed, int(size))

    def before_train_epoch(self, runner: Runner) -> None:
        """Tell the workers the epoch; pass over what was trained on before the checkpoint."""
        loop, done = runner.train_loop, self.done
        if self.items:
            takes_none = getattr(runner.train_dataloader.collate_fn, 'func', None) is pseudo_collate
            self.items.begin(runner.epoch, done if takes_none else 0)
        if done and self.by_epoch:  # the other loop passes over by itself
            run_iter = loop.run_iter
            loop.run_iter = lambda idx, data_batch: run_iter(idx, data_batch) if idx >= done else None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        seed_generators(STEP, runner.seed, runner.iter, get_rank())  # each process draws its own

    def after_train_epoch(self, runner: Runner) -> None:
        if self.done and self.by_epoch:
            del runner.train_loop.run_iter  # the class's own again
        self.done = 0


def _sampler(loader: DataLoader) -> Any:
    """What orders the indices, as DistSamplerSeedHook finds it."""
    return loader.sampler if hasattr(loader.sampler, 'set_epoch') else getattr(loader.batch_sampler, 'sampler', None)


def _circumstances(runner: Runner) -> dict[str, Any]:
    """What a resumed run must have in common with the one before to equal it."""
    loader = runner.train_dataloader
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    return {
        BATCHES: len(loader),
        SAMPLER_SEED: getattr(_sampler(loader), 'seed', None),
        'processes': get_world_size(),
        'data loading workers': 'any' if by_epoch else loader.num_workers,
        'threads': torch.get_num_threads(),
        'PyTorch': str(torch.__version__),
    }


def _log_differences(runner: Runner, recorded: dict[str, Any]) -> None:
    now = _circumstances(runner)
    differences = [
        f'{name} {recorded[name]} then, {now[name]} now'
        for name in now
        if name in recorded and recorded[name] != now[name]
    ]
    if not recorded:
        differences = ['the checkpoint was written without ExactResumeHook']
    if differences:
        runner.logger.warning('resumed, but not bit for bit as the uninterrupted run: ' + '; '.join(differences))

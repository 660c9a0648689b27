"""A resumed run draws the random numbers that the uninterrupted one would have drawn.

Instead of saving the state of every generator in every process, numbers are made to depend on the place they are drawn
at: a step of the model on (seed, iteration), an item of the data set on (seed, epoch, index). That also makes the data
independent of how many workers and processes load it.
"""
import random
from typing import Any, Dict, List, Optional, Sequence

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader, get_worker_info

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
    np.random.seed(words[1])
    torch.manual_seed(int(words[2]))


class SeededItems:
    """What a DataLoader asks for a batch, as ``dataset.__getitems__``: each item from random numbers of its own.

    Args:
        dataset: the outermost data set, whose indices tell the copies of a repeated image apart.
        seed: seed of the run.
        skip: number of batches at the start that nobody will look at; they are not loaded.

    Attributes:
        epoch: shared with the worker processes.
    """

    def __init__(self, dataset: Any, seed: int, skip: int) -> None:
        self.dataset, self.seed, self.skip = dataset, seed, skip
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()
        self.calls = 0

    def __call__(self, indices: Sequence[int]) -> List[Any]:
        worker = get_worker_info()
        # batches go to the workers in turn
        batch = self.calls * worker.num_workers + worker.id if worker else self.calls
        self.calls += 1
        return [self._item(index) if batch >= self.skip else None for index in indices]

    def _item(self, index: int) -> Any:
        seed_generators(self.seed, int(self.epoch), index)
        return self.dataset[index]


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Makes ``--resume`` continue as if nothing had happened, also from a checkpoint in the middle of an epoch.

    MMEngine restores weights, optimizer, schedulers and logs, but no random numbers, not the order of the data where
    the config sets no seed, and it repeats an epoch from its start. docs/faults.md says for which settings a resumed
    run equals the uninterrupted one bit for bit; what breaks it is logged.

    Example:
        >>> default_hooks = dict(resume=dict(type='ExactResumeHook'))  # in a config
    """

    def __init__(self) -> None:
        self.recorded: Dict[str, Any] = {}

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['meta']['resume'] = _circumstances(runner)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self.recorded = checkpoint.get('meta', {}).get('resume', {})

    def before_train(self, runner: Runner) -> None:
        """Restore the order of the data, and give every item random numbers of its own."""
        loop, loader = runner.train_loop, runner.train_dataloader
        self.by_epoch, self.done = isinstance(loop, EpochBasedTrainLoop), 0
        if runner.iter:  # resumed
            if self.by_epoch and SAMPLER_SEED in self.recorded:
                _sampler(loader).seed = self.recorded[SAMPLER_SEED]
            _log_differences(runner, self.recorded)
            if self.by_epoch and self.recorded.get(BATCHES) == len(loader):
                self.done = runner.iter - runner.epoch * len(loader)
        self.items = None
        # an iteration-based loop has started its workers by now; it loads again what was loaded before the checkpoint
        if self.by_epoch or loader.num_workers == 0:
            unseen = self.done if self.by_epoch else runner.iter
            # another collate function may not like None
            skip = unseen if getattr(loader.collate_fn, 'func', None) is pseudo_collate else 0
            self.items = loader.dataset.__getitems__ = SeededItems(loader.dataset, runner.seed, skip)

    def before_train_epoch(self, runner: Runner) -> None:
        """Tell the workers the epoch; pass over what was trained on before the checkpoint."""
        if self.items:
            self.items.epoch.fill_(runner.epoch if self.by_epoch else runner.iter)
        if self.done:
            loop, done = runner.train_loop, self.done
            run_iter = loop.run_iter
            loop.run_iter = lambda idx, data_batch: run_iter(idx, data_batch) if idx >= done else None

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None) -> None:
        seed_generators(runner.seed, runner.iter, get_rank())  # each process draws its own

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Optional[dict] = None,
                         outputs: Optional[dict] = None) -> None:
        if self.items and not self.by_epoch:  # in this process, and without epochs: an index comes again and again
            self.items.epoch.fill_(runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        if self.done:
            self.done = 0
            del runner.train_loop.run_iter  # the class's own again


def _sampler(loader: DataLoader) -> Any:
    """What orders the indices, as DistSamplerSeedHook finds it."""
    return loader.sampler if hasattr(loader.sampler, 'set_epoch') else getattr(loader.batch_sampler, 'sampler', None)


def _circumstances(runner: Runner) -> Dict[str, Any]:
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


def _log_differences(runner: Runner, recorded: Dict[str, Any]) -> None:
    now = _circumstances(runner)
    differences = [f'{name} {recorded[name]} then, {now[name]} now' for name in now
                   if name in recorded and recorded[name] != now[name]]
    if not recorded:
        differences = ['the checkpoint was written without ExactResumeHook']
    if differences:
        runner.logger.warning('resumed, but not bit for bit as the uninterrupted run: ' + '; '.join(differences))

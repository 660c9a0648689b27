"""Exact resumption: a resumed run draws the random numbers that the uninterrupted one would have drawn.

The state of the generators is not saved. Each random stream is re-seeded from its position instead: (seed, iteration,
process) for a step of the model, (seed, epoch, place in the epoch, index) for an item of the data set.
"""

from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from apa_mmdet.engine.runner.endless_batches import Place
from apa_mmdet.engine.runner.loops import ResumableIterBasedTrainLoop, ResumableLoopMixin
from apa_mmdet.engine.runner.resumed_schedule import BATCHES
from apa_mmdet.engine.runner.seeded_data import STEP, seed_generators

SAMPLER_SEED = 'seed of the order'
PLACE = 'epoch and batch of the data'  # of a loop of iterations


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Makes ``--resume`` continue as the uninterrupted run would, also from a checkpoint within an epoch.

    MMEngine restores weights, optimizer, schedulers and logs, but neither random numbers nor, where the config sets no
    seed, the order of the data, and it repeats an epoch from its start. The hook seeds every step of the model;
    ``ResumableEpochBasedTrainLoop`` or ``ResumableIterBasedTrainLoop`` as ``train_cfg.type`` seeds the data. With
    another loop a warning says what to set. docs/fault_tolerance.md lists the settings under which a resumed run is bit
    for bit the uninterrupted one; what breaks it is logged.

    Example:
        >>> default_hooks = dict(resume=dict(type='ExactResumeHook'))  # in a config
        >>> train_cfg = dict(type='ResumableEpochBasedTrainLoop', max_epochs=12)
    """

    def __init__(self) -> None:
        self.recorded: dict[str, Any] = {}

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['meta']['resume'] = _conditions(runner)
        if isinstance(runner.train_loop, ResumableIterBasedTrainLoop) and runner.train_loop.place:
            checkpoint['meta']['resume'][PLACE] = list(runner.train_loop.place)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None  # whatever the file holds
        recorded = meta.get('resume') if isinstance(meta, dict) else None
        self.recorded = recorded if isinstance(recorded, dict) else {}

    def before_train(self, runner: Runner) -> None:
        """Restores the order of the data and the place within the epoch."""
        loop, loader = runner.train_loop, runner.train_dataloader
        by_epoch, resumable = isinstance(loop, EpochBasedTrainLoop), isinstance(loop, ResumableLoopMixin)
        reason = ''
        if not resumable:
            wanted = f'Resumable{"Epoch" if by_epoch else "Iter"}BasedTrainLoop'
            reason = f'train_cfg.type is {type(loop).__name__}; set it to {wanted!r}'
        elif loop.positions is None:
            reason = 'train_dataloader is a DataLoader; pass its config instead'
        if reason:
            runner.logger.warning(f'a resumed run may differ from the uninterrupted one: {reason}')
        if runner.iter:  # resumed
            if (by_epoch or not reason) and SAMPLER_SEED in self.recorded:
                _sampler(loader).seed = self.recorded[SAMPLER_SEED]
            now = _conditions(runner)
            changed = [name for name in now if name in self.recorded and self.recorded[name] != now[name]]
            differences = [f'{name} {self.recorded[name]} then, {now[name]} now' for name in changed]
            if not self.recorded:
                differences = ['the checkpoint was written without ExactResumeHook']
            if differences:
                reasons = '; '.join(differences)
                runner.logger.warning(f'the resumed run differs from the uninterrupted one: {reasons}')
            if resumable and self.recorded.get(BATCHES) == len(loader):
                if by_epoch:
                    loop.batches_done = runner.iter - runner.epoch * len(loader)
                elif loop.positions is not None and _is_place(self.recorded.get(PLACE), runner.iter):
                    loop.place = Place(*self.recorded[PLACE])

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        seed_generators(STEP, runner.seed, runner.iter, get_rank())


def _sampler(loader: DataLoader) -> Any:
    """The sampler that orders the indices, as DistSamplerSeedHook finds it."""
    return loader.sampler if hasattr(loader.sampler, 'set_epoch') else getattr(loader.batch_sampler, 'sampler', None)


def _is_place(recorded: Any, iteration: int) -> bool:
    """Whether this, from a file, can be the place of the data after some iterations."""
    numbers = isinstance(recorded, list) and len(recorded) == 2 and all(type(n) is int for n in recorded)
    return numbers and all(0 <= n <= iteration for n in recorded)


def _conditions(runner: Runner) -> dict[str, Any]:
    """What a resumed run must have in common with the interrupted one to equal the uninterrupted one."""
    loader = runner.train_dataloader
    return {
        BATCHES: len(loader),
        SAMPLER_SEED: getattr(_sampler(loader), 'seed', None),
        'processes': get_world_size(),
        'threads': torch.get_num_threads(),
        'PyTorch': str(torch.__version__),
    }

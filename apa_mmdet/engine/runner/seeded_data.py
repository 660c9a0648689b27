"""Data loading whose random numbers depend on the position of an item alone.

A batch sampler gives every index its position (seed, epoch, place in the epoch), and the data set seeds the generators
from it before the item is loaded. The augmentation of an image therefore does not depend on how many workers load the
data, on which batches were loaded before, or, where the sampler deals indices out in turn, on the number of processes.
"""

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.dist import get_rank, get_world_size
from mmengine.registry import DATA_SAMPLERS, DATASETS
from torch.utils.data import BatchSampler, Dataset, Sampler

STEP, ITEM = 0, 1  # separate the random streams of the model and of the data


class Position(NamedTuple):
    """An index with what its random numbers depend on; ``place`` counts the items of all processes in an epoch."""

    seed: int
    epoch: int
    place: int
    index: Any


def seed_generators(*position: int) -> None:
    """Seeds Python's, NumPy's and torch's generators of this process from non-negative integers.

    Example:
        >>> seed_generators(0, 5)
        >>> first = torch.rand(1).item(), np.random.rand(), random.random()
        >>> seed_generators(0, 5)
        >>> first == (torch.rand(1).item(), np.random.rand(), random.random())
        True
    """
    words = np.random.SeedSequence((len(position), *position)).generate_state(3)  # it ignores a zero at the end
    random.seed(int(words[0]))
    np.random.seed(words[1])  # noqa: NPY002  transforms draw from it
    # without a GPU, torch.manual_seed formats the stack for a deferred call, which takes longer than the rest
    (torch.default_generator if get_device() == 'cpu' else torch).manual_seed(int(words[2]))


class SeededDataset(Dataset):
    """Wraps a data set: a :class:`Position` instead of an index seeds the generators before the item is loaded.

    Attributes are read from and written to the wrapped data set, so that samplers and hooks find what they look for;
    ``pipeline``, which PipelineSwitchHook writes, reaches the data sets that read it, see :func:`set_pipeline`.

    Args:
        dataset: the data set or its config.
    """

    def __init__(self, dataset: Any) -> None:
        vars(self)['dataset'] = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, Position):
            seed_generators(ITEM, *index)
            index = index.index
        return self.dataset[index]

    def __getitems__(self, indices: list) -> list:
        return [self[index] for index in indices]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset' or name.startswith('__'):  # a copy that is being made asks for them
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == 'pipeline':
            set_pipeline(self.dataset, value)
        else:
            setattr(self.dataset, name, value)


def set_pipeline(dataset: Any, pipeline: Any) -> None:
    """Gives a data set another pipeline: its own, or else those of all data sets that it wraps.

    ClassBalancedDataset, RepeatDataset and ConcatDataset have none. MultiImageMixDataset has one, behind that of the
    data set that it mixes, which is kept.

    Raises:
        AttributeError: if a data set neither has a pipeline nor wraps another.
    """
    if hasattr(dataset, 'pipeline'):
        if hasattr(dataset, 'pipeline_types'):  # MultiImageMixDataset iterates over both at once
            dataset.pipeline_types = [type(transform).__name__ for transform in pipeline]
        dataset.pipeline = pipeline
        return
    wrapped = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if wrapped == [None]:
        raise AttributeError(
            f'{type(dataset).__name__} has no pipeline that could be switched; remove the hook that does, as '
            'PipelineSwitchHook, from custom_hooks'
        )
    for part in wrapped:
        set_pipeline(part, pipeline)


class PositionBatchSampler(Sampler):
    """Wraps a batch sampler: every index becomes a :class:`Position`, and an epoch can start within.

    Args:
        sampler: the sampler of the data loader.
        batch_size: number of indices in a batch.
        batch_sampler: the batch sampler, its config, or None for torch's.
        drop_last: whether torch's drops an incomplete batch.
        seed: seed of the run.
    """

    def __init__(
        self, sampler: Any, batch_size: Any, batch_sampler: Any = None, drop_last: bool = False, seed: int = 0
    ) -> None:
        if batch_sampler is None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        elif isinstance(batch_sampler, dict):
            batch_sampler = DATA_SAMPLERS.build(
                batch_sampler, default_args=dict(sampler=sampler, batch_size=batch_size)
            )
        self.batch_sampler, self.sampler, self.batch_size = batch_sampler, sampler, batch_size
        self.start_epoch(seed, 0)

    def start_epoch(self, seed: int, epoch: int, skip: int = 0) -> None:
        """Sets the position of the next index; the first ``skip`` batches are drawn and not yielded."""
        self.seed, self.epoch, self.skip, self.place = seed, epoch, skip, 0

    def __iter__(self) -> Iterator[list[Position]]:
        rank, processes = get_rank(), get_world_size()
        for batch in self.batch_sampler:
            start, self.place = self.place, self.place + len(batch)
            if self.skip > 0:
                self.skip -= 1
                continue
            yield [
                Position(self.seed, self.epoch, (start + i) * processes + rank, index) for i, index in enumerate(batch)
            ]

    def __len__(self) -> int:
        return len(self.batch_sampler)


def with_positions(dataloader: dict, seed: int) -> dict:
    """The config of a data loader that loads the same batches, each item from random numbers of its position."""
    cfg = dict(dataloader, dataset=dict(type=SeededDataset, dataset=dataloader['dataset']))
    own = cfg.get('batch_sampler')
    cfg['batch_sampler'] = dict(type=PositionBatchSampler, batch_sampler=own, seed=seed)
    if own is None:  # else the data loader refuses drop_last itself
        cfg['batch_sampler']['drop_last'] = cfg.pop('drop_last', False)
    return cfg

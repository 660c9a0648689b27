import random

import numpy as np
import pytest
import torch
from helpers.tiny_runs import Points, Stop, log_of, toy
from mmdet.datasets.samplers import ClassAwareSampler
from mmengine.dataset import DefaultSampler
from torch.utils.data import DataLoader, Dataset

from apa_mmdet.engine.hooks.exact_resume_hook import SeededItems, seed_generators


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_all_three_generators_depend_on_each_number():
    drawn = []
    for place in (0, 1), (1, 0), (0, 1, 0), (0, 1):
        seed_generators(*place)
        drawn.append(draw())
    assert drawn[0] == drawn[3] and all(len({d[i] for d in drawn}) == 3 for i in range(3))


class Drawn(Dataset):
    """Items are what the generators say."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.tensor([index, *draw()], dtype=torch.float64)


def epochs(workers, skip=0, seed=7, persistent=True, batch_size=3, rank=0, processes=1):
    dataset = Drawn()
    dataset.__getitems__ = items = SeededItems(dataset, seed, batch_size)
    items.rank, items.processes = rank, processes
    sampler = DefaultSampler(dataset, shuffle=False)
    sampler.rank, sampler.world_size, sampler.num_samples = rank, processes, len(dataset) // processes
    loader = DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=list,
        persistent_workers=persistent and workers > 0,
    )
    for epoch in range(2):
        items.begin(epoch, skip if epoch == 0 else 0)
        random.seed(), np.random.seed()  # whatever was drawn before
        yield list(loader)


def same(one, other):
    pairs = [pair for batches in zip(one, other, strict=True) for pair in zip(*batches, strict=True)]
    return all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize('workers', [1, 2])
def test_an_item_is_the_same_whoever_loads_it_and_another_in_each_epoch(workers):
    here, there = list(epochs(0)), list(epochs(workers))
    assert same(here[0], there[0]) and same(here[1], there[1])
    assert not same(here[0], here[1]) and not same(here[0], next(epochs(0, seed=8)))


def test_two_processes_load_together_what_one_does():
    halves = (epochs(0, batch_size=2, rank=rank, processes=2) for rank in (0, 1))
    for together, *apart in zip(epochs(0, batch_size=4), *halves, strict=True):
        dealt = [[item for pair in zip(*batches, strict=True) for item in pair] for batches in zip(*apart, strict=True)]
        assert len(together) == 3 and same(together, dealt)


@pytest.mark.parametrize('workers', [0, 2])
def test_a_picture_that_a_sampler_repeats_is_another_each_time(workers):

    class OneRare(Drawn):
        metainfo = dict(classes=('frequent', 'rare'))

        def get_cat_ids(self, index):
            return [int(index == 9)]

    dataset = OneRare()
    dataset.__getitems__ = items = SeededItems(dataset, 0, 3)
    items.begin(0)
    loader = DataLoader(dataset, 3, sampler=ClassAwareSampler(dataset, seed=0), num_workers=workers, collate_fn=list)
    rare = [tuple(item.tolist()) for batch in loader for item in batch if item[0] == 9]
    assert len(rare) == 5 and len({numbers[1:] for numbers in rare}) == 5


@pytest.mark.parametrize('workers, persistent', [(0, False), (2, True), (2, False)])
def test_skipped_batches_are_not_loaded_and_change_nothing(workers, persistent):
    first, second = epochs(workers, skip=3, persistent=persistent)
    whole = list(epochs(0))
    assert first[:3] == [[None] * 3] * 3 and same(first[3:], whole[0][3:]) and same(second, whole[1])


class Shaken(Points):
    """Points, each multiplied by a random number."""

    def __getitem__(self, index):
        return dict(inputs=super().__getitem__(index)['inputs'] * (1 + random.random()))


def test_workers_that_are_started_after_the_resumed_epoch_load_all_of_theirs(tmp_path):
    weights = []
    for work_dir, stop, resume, workers in (('whole', 0, False, 0), ('parts', 3, False, 0), ('parts', 0, True, 2)):
        runner = toy(
            tmp_path / work_dir,
            dataset=Shaken(),
            resume=resume,
            name=f'{stop}',
            by_epoch=False,
            interval=1,
            loader=dict(num_workers=workers),
        )
        runner.register_hook(Stop(stop), 'LOWEST')
        try:
            runner.train()
        except KeyboardInterrupt:
            assert runner.iter == 2
        weights.append(runner.model.state_dict())
    assert runner.iter == 8 and all(torch.equal(value, weights[2][name]) for name, value in weights[0].items())
    assert not torch.equal(weights[0]['conv.weight'], weights[1]['conv.weight'])


def test_a_resumed_run_says_why_it_is_not_the_uninterrupted_one(tmp_path):
    runner = toy(tmp_path)
    runner.register_hook(Stop(6), 'LOWEST')
    with pytest.raises(KeyboardInterrupt):
        runner.train()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        fewer = torch.utils.data.Subset(Points(), range(9))
        toy(tmp_path, dataset=fewer, resume=True, name='resumed').train()
    finally:
        torch.set_num_threads(threads)
    said = [line.split(' - WARNING - ')[1] for line in log_of(tmp_path).splitlines() if 'bit for bit' in line]
    assert said == [
        'resumed, but not bit for bit as the uninterrupted run: batches in an epoch 4 then, 3 now; '
        f'threads {threads} then, {threads + 1} now'
    ]


def test_a_checkpoint_of_the_stock_hooks_is_resumed_with_a_warning(tmp_path):
    runner = toy(tmp_path, epochs=1)
    runner._hooks = [hook for hook in runner._hooks if type(hook).__name__ != 'ExactResumeHook']
    runner.train()
    resumed = toy(tmp_path, resume=True, name='resumed')
    resumed.train()
    assert resumed.iter == 8 and 'the checkpoint was written without ExactResumeHook' in log_of(tmp_path)

import random

import numpy as np
import pytest
import torch
from tinier import Points, Stop, log_of, toy
from torch.utils.data import DataLoader, Dataset

from apa_mmdet.engine.random_state import SeededItems, seed_generators


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


def epochs(workers, skip=0, seed=7, collate=list):
    dataset = Drawn()
    dataset.__getitems__ = items = SeededItems(dataset, seed, skip)
    loader = DataLoader(dataset, batch_size=3, num_workers=workers, collate_fn=collate, persistent_workers=workers > 0)
    for epoch in range(2):
        items.epoch.fill_(epoch)
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


@pytest.mark.parametrize('workers', [0, 2])
def test_skipped_batches_are_not_loaded_and_change_nothing(workers):
    first, second = epochs(workers, skip=3)
    whole = list(epochs(0))
    assert first[:3] == [[None] * 3] * 3 and same(first[3:], whole[0][3:]) and same(second, whole[1])


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
    assert said == ['resumed, but not bit for bit as the uninterrupted run: batches in an epoch 4 then, 3 now; '
                    f'threads {threads} then, {threads + 1} now']


def test_a_checkpoint_of_the_stock_hooks_is_resumed_with_a_warning(tmp_path):
    runner = toy(tmp_path, epochs=1)
    runner._hooks = [hook for hook in runner._hooks if type(hook).__name__ != 'ExactResumeHook']
    runner.train()
    resumed = toy(tmp_path, resume=True, name='resumed')
    resumed.train()
    assert resumed.iter == 8 and 'the checkpoint was written without ExactResumeHook' in log_of(tmp_path)

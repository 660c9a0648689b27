"""A training of iterations resumes where it was, in the order of the data and its random numbers, and loads no image twice."""

import pickle
import random

import pytest
import torch
from helpers.tiny_runs import Points, Stop, saved_at, toy, train_until
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmengine.dataset import BaseDataset, ClassBalancedDataset, DefaultSampler, InfiniteSampler
from torch.utils.data import DataLoader

from apa_mmdet.engine.runner.endless_batches import EndlessBatches, NoBatches, Place
from apa_mmdet.engine.runner.seeded_data import PositionBatchSampler, SeededDataset

PROCESSES = {'one process': dict(num_workers=0), 'workers': dict(num_workers=2)}
PROCESSES['persistent workers'] = dict(num_workers=2, persistent_workers=True)
FIRST = Place()


class Sizes(BaseDataset):
    """Eleven images, two of three upright, of which an item is the index and a random number; ``loaded`` counts."""

    METAINFO = dict(classes=('common', 'rare'))

    def __init__(self, length=11):
        self.length, self.loaded = length, torch.zeros((), dtype=torch.int64).share_memory_()
        super().__init__(pipeline=[self.load], serialize_data=False)  # which takes longer than the rest

    def load_data_list(self):
        return [dict(width=1 + (i % 3 == 0), height=2) for i in range(self.length)]

    def load(self, results):
        self.loaded += 1
        return results['sample_idx'], random.random()

    def get_cat_ids(self, index):
        return [0, int(index == 7)]


def batches(sampler, processes, place=FIRST, balanced=False, **options):
    """Iterates over batches of three of the data set, and the data set."""
    sizes = Sizes(**options)
    dataset = SeededDataset(ClassBalancedDataset(sizes, oversample_thr=0.9) if balanced else sizes)
    own = AspectRatioBatchSampler(sampler(dataset, shuffle=True, seed=3), 3, drop_last=sampler is DefaultSampler)
    positions = PositionBatchSampler(own.sampler, 3, own)
    loader = DataLoader(dataset, batch_sampler=positions, collate_fn=list, **processes)
    return EndlessBatches(loader, positions, 5, place), sizes


@pytest.mark.parametrize(
    'sampler, balanced, name',
    [
        (DefaultSampler, False, 'one process'),
        (DefaultSampler, True, 'persistent workers'),
        (InfiniteSampler, False, 'one process'),
        (InfiniteSampler, True, 'workers'),
    ],
)
def test_batches_from_a_place_on_are_those_of_the_whole(sampler, balanced, name):
    """Also where an epoch has fewer batches than its length says, as AspectRatioBatchSampler's with ``drop_last``."""
    processes = PROCESSES[name]
    whole, sizes = batches(sampler, dict(num_workers=0), balanced=balanced)
    expected, places = [], []
    for _ in range(14):
        places.append(whole.place)
        expected.append(next(whole))
    assert sizes.loaded == 14 * 3
    first = 9
    assert (places[first].epoch > 0) == (sampler is DefaultSampler)
    for place in {places[first], Place(0, first)}:  # as recorded, and counted from the start
        rest, sizes = batches(sampler, processes, place, balanced)
        assert sizes.loaded == 0
        assert [next(rest) for _ in range(first, 14)] == expected[first:]
        assert rest.place == whole.place
        ahead = 2 * processes['num_workers'] * 3  # what the workers load in advance
        assert sizes.loaded <= (14 - first) * 3 + ahead


def test_a_data_loader_without_a_batch_is_named():
    empty, _ = batches(DefaultSampler, dict(num_workers=0), length=2)
    with pytest.raises(NoBatches) as error:
        next(empty)
    assert error.value.code == 'no-batches'


# The loop


class Counted(Points):
    """Points, each multiplied by a random number, and how often one was loaded."""

    def __init__(self):
        super().__init__()
        self.loaded = torch.zeros((), dtype=torch.int64).share_memory_()

    def __getitem__(self, index):
        self.loaded += 1
        return dict(inputs=super().__getitem__(index)['inputs'] * (1 + random.random()))


def run(work_dir, stop=0, resume=False, sampler='DefaultSampler', seed=None, iters=11, **loader):
    """Trains for eleven steps, of which four are an epoch, or until a step; returns the runner and its data set."""
    runner = toy(
        work_dir,
        dataset=Counted(),
        resume=resume,
        name=f'{stop}',
        by_epoch=False,
        interval=stop or 7,
        loader=dict(sampler=dict(type=sampler, shuffle=True), **loader),
        options=dict(
            train_cfg=dict(type='ResumableIterBasedTrainLoop', max_iters=iters),
            log_processor=dict(by_epoch=False),
            randomness=dict(seed=seed),
        ),
    )
    runner.register_hook(Stop(stop), 'LOWEST')
    try:
        runner.train()
    except KeyboardInterrupt:
        assert runner.iter == stop - 1
    return runner, runner.train_dataloader.dataset


@pytest.mark.parametrize('sampler', ['DefaultSampler', 'InfiniteSampler'])
def test_a_resumed_run_equals_the_uninterrupted_one_and_loads_what_is_left(sampler, tmp_path):
    stopped, _ = run(tmp_path / 'parts', stop=7, sampler=sampler)
    assert saved_at(tmp_path / 'parts/iter_7.pth')['meta']['iter'] == 7
    resumed, dataset = run(tmp_path / 'parts', resume=True, sampler=sampler)
    whole, _ = run(tmp_path / 'whole', sampler=sampler, seed=stopped.seed)
    assert dataset.loaded == (11 - 7) * 3 and resumed.iter == whole.iter == 11
    ends = [saved_at(tmp_path / name / 'iter_11.pth') for name in ('parts', 'whole')]
    assert all(torch.equal(value, ends[1]['state_dict'][key]) for key, value in ends[0]['state_dict'].items())
    assert [end['meta']['resume'] for end in ends] == [ends[0]['meta']['resume']] * 2
    assert resumed.train_loop.place == Place(2, 3) if sampler == 'DefaultSampler' else Place(0, 11)


def test_a_run_that_is_finished_loads_nothing_when_resumed(tmp_path):
    run(tmp_path, iters=2)
    resumed, dataset = run(tmp_path, iters=2, resume=True)
    assert resumed.iter == 2 and dataset.loaded == 0


def test_the_place_in_a_checkpoint_counts_only_if_it_is_one(tmp_path):
    run(tmp_path, stop=3, seed=0)
    path = tmp_path / 'iter_3.pth'
    content = torch.load(path, weights_only=False)
    key = next(key for key, value in content['meta']['resume'].items() if value == [0, 3])
    for wrong in ([0, -1], [0, 4], [0.0, 3], 'ab'):
        content['meta']['resume'][key] = wrong
        torch.save(content, path)
        resumed, _ = run(tmp_path, resume=True, iters=4)
        assert resumed.train_loop.place == Place(1, 0) or resumed.train_loop.place == Place(0, 4), wrong


def test_a_training_of_iterations_without_a_batch_is_named(tmp_path):
    with pytest.raises(NoBatches):
        run(tmp_path, batch_size=20, drop_last=True)


@pytest.mark.parametrize('given', ['a config', 'a loader'])
def test_a_training_of_epochs_without_a_batch_is_named_before_it_saves_anything(given, tmp_path):
    none = DataLoader(Points(), batch_size=20, drop_last=True)
    options = dict(train_dataloader=none) if given == 'a loader' else {}
    with pytest.raises(NoBatches) as error:
        toy(tmp_path, loader=dict(batch_size=20, drop_last=True), options=options).train()
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)
    assert not list(tmp_path.glob('*.pth'))


def test_a_run_resumed_at_the_end_of_an_epoch_that_was_not_closed_goes_on(tmp_path):
    """Its epoch has no batch left, which is not an epoch without a batch."""
    stopped = toy(tmp_path, name='stopped', by_epoch=False, interval=4)  # an epoch is four steps
    train_until(stopped, 4)  # after the checkpoint is written
    resumed = toy(tmp_path, resume=True, by_epoch=False)
    resumed.train()
    assert (resumed.iter, resumed.epoch) == (8, 2)

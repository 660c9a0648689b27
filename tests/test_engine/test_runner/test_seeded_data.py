import copy
import pickle
import random
from argparse import Namespace

import numpy as np
import pytest
import torch
from helpers.own_data import NAMES, own_content, write_own_data
from mmcv.transforms import Compose
from mmdet.datasets.samplers import ClassAwareSampler
from mmdet.engine.hooks import PipelineSwitchHook
from mmengine.dataset import DefaultSampler
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, init_default_scope
from torch.utils.data import BatchSampler, DataLoader, Dataset, TensorDataset

from apa_mmdet.engine.runner import seeded_data
from apa_mmdet.engine.runner.seeded_data import PositionBatchSampler, SeededDataset, seed_generators, with_positions


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_all_three_generators_depend_on_each_number():
    drawn = []
    for position in (0, 1), (1, 0), (0, 1, 0), (0, 1):
        seed_generators(*position)
        drawn.append(draw())
    assert drawn[0] == drawn[3] and all(len({d[i] for d in drawn}) == 3 for i in range(3))


@DATASETS.register_module()
class Drawn(Dataset):
    """Items are an index and what the generators give."""

    metainfo, pipeline = dict(classes=('frequent', 'rare')), None

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return torch.tensor([index, *draw()], dtype=torch.float64)

    def get_cat_ids(self, index):
        return [int(index == 9)]


def epochs(workers, monkeypatch, skip=0, seed=7, persistent=True, batch_size=3, rank=0, processes=1):
    dataset = SeededDataset(Drawn())
    monkeypatch.setattr(seeded_data, 'get_rank', lambda: rank)
    monkeypatch.setattr(seeded_data, 'get_world_size', lambda: processes)
    sampler = DefaultSampler(dataset, shuffle=False)
    sampler.rank, sampler.world_size, sampler.num_samples = rank, processes, len(dataset) // processes
    batches = PositionBatchSampler(sampler, batch_size)
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=list,
        persistent_workers=persistent and workers > 0,
    )
    found = []
    for epoch in range(2):
        batches.start_epoch(seed, epoch, skip if epoch == 0 else 0)
        random.seed(), np.random.seed()  # whatever was drawn before
        found.append(list(loader))
    return found


def same(one, other):
    pairs = [pair for batches in zip(one, other, strict=True) for pair in zip(*batches, strict=True)]
    return all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize('workers', [1, 2])
def test_an_item_is_the_same_in_every_worker_and_differs_between_epochs(workers, monkeypatch):
    here, there = epochs(0, monkeypatch), epochs(workers, monkeypatch)
    assert same(here[0], there[0]) and same(here[1], there[1])
    assert not same(here[0], here[1]) and not same(here[0], epochs(0, monkeypatch, seed=8)[0])


def test_two_processes_load_together_what_one_loads(monkeypatch):
    halves = (epochs(0, monkeypatch, batch_size=2, rank=rank, processes=2) for rank in (0, 1))
    for together, *apart in zip(epochs(0, monkeypatch, batch_size=4), *halves, strict=True):
        dealt = [[item for pair in zip(*batches, strict=True) for item in pair] for batches in zip(*apart, strict=True)]
        assert len(together) == 3 and same(together, dealt)


@pytest.mark.parametrize('workers', [0, 2])
def test_an_index_repeated_within_an_epoch_draws_other_numbers_each_time(workers):
    dataset = SeededDataset(dict(type='Drawn'))
    batches = PositionBatchSampler(ClassAwareSampler(dataset, seed=0), 3)
    loader = DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=list)
    rare = [tuple(item.tolist()) for batch in loader for item in batch if item[0] == 9]
    assert len(rare) == 5 and len({numbers[1:] for numbers in rare}) == 5


@pytest.mark.parametrize('workers, persistent', [(0, False), (2, True), (2, False)])
def test_skipped_batches_change_nothing_in_the_others(workers, persistent, monkeypatch):
    first, second = epochs(workers, monkeypatch, skip=3, persistent=persistent)
    whole = epochs(0, monkeypatch)
    assert same(first, whole[0][3:]) and same(second, whole[1])


def test_the_data_set_is_transparent():
    inner = Drawn()
    wrapped = SeededDataset(inner)
    wrapped.pipeline, wrapped.number = 'switched', 3
    assert inner.number == 3
    assert inner.pipeline == 'switched' and wrapped.metainfo is inner.metainfo and len(wrapped) == 10
    assert not hasattr(wrapped, 'full_init') and wrapped[4][0] == 4
    for duplicate in copy.deepcopy(wrapped), pickle.loads(pickle.dumps(wrapped)):
        assert isinstance(duplicate, SeededDataset) and duplicate.dataset is not inner
        assert duplicate.pipeline == 'switched'


LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
PACK = dict(type='PackDetInputs')
BEFORE, AFTER = ([dict(type='Resize', scale=(side, side), keep_ratio=True), PACK] for side in (32, 48))
MOSAIC = dict(type='Mosaic', img_scale=(32, 32))


def balanced(leaf):
    return dict(type='ClassBalancedDataset', oversample_thr=1e-3, dataset=leaf)


def concatenated(leaf):
    return dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[leaf, balanced(leaf)]))


def mixed(leaf):
    pipeline = [MOSAIC, *leaf['pipeline'][2:]]
    return dict(type='MultiImageMixDataset', dataset=dict(leaf, pipeline=LOAD), pipeline=pipeline)


@pytest.mark.parametrize('wrap', [dict, balanced, concatenated, mixed])
def test_the_switch_of_the_pipeline_reaches_the_data_sets_inside_wrappers(wrap, tmp_path):
    init_default_scope('mmdet')
    ann_file = write_own_data(tmp_path, own_content(images=4))
    classes = dict(classes=NAMES)
    leaf = dict(type='CocoDataset', ann_file=ann_file, data_prefix=dict(img=f'{tmp_path}/images'), metainfo=classes)
    dataset = SeededDataset(wrap(dict(leaf, pipeline=LOAD + BEFORE)))
    runner = Namespace(epoch=3, train_dataloader=DataLoader(dataset), logger=MMLogger.get_current_instance())
    shape = dataset[0]['inputs'].shape
    PipelineSwitchHook(switch_epoch=3, switch_pipeline=LOAD + AFTER).before_train_epoch(runner)
    assert max(shape) == 32 and {dataset[i]['inputs'].shape for i in range(len(dataset))} == {(3, 36, 48)}


def test_a_switch_of_the_pipeline_that_nothing_reads_is_refused():
    with pytest.raises(AttributeError, match='TensorDataset has no pipeline'):
        SeededDataset(TensorDataset(torch.ones(2))).pipeline = Compose([])


class Pairs(BatchSampler):
    """A batch sampler of the config."""

    def __init__(self, sampler, batch_size):
        super().__init__(sampler, 2, drop_last=True)


@pytest.mark.parametrize(
    'options, batches', [({}, 4), (dict(drop_last=True), 3), (dict(batch_sampler=dict(type=Pairs)), 5)]
)
def test_the_batches_are_those_of_the_config(options, batches):
    cfg = with_positions(dict(dataset=Drawn(), batch_size=3, **options), seed=0)
    sampler = DefaultSampler(cfg['dataset']['dataset'], shuffle=True, seed=0)
    positions = cfg['batch_sampler'].pop('type')(sampler=sampler, batch_size=3, **cfg['batch_sampler'])
    own = options.get('batch_sampler', dict(type=BatchSampler))['type']
    expected = list(own(sampler, 3) if own is Pairs else own(sampler, 3, options.get('drop_last', False)))
    assert [[position.index for position in batch] for batch in positions] == expected
    assert len(positions) == len(expected) == batches and 'drop_last' not in cfg

"""The same data as MMDetection's data sets, without a search through all classes for each object."""

import copy
import functools

import numpy as np
import pytest
from mmdet.registry import DATASETS

from apa_mmdet.datasets.indexed_datasets import IndexedList
from apa_mmdet.datasets.tiny_lvis.formats import FORMATS


@pytest.fixture(scope='module')
def build(tiny_data):
    @functools.cache
    def _build(form, name, classes=None, serialize=True):
        root = tiny_data(form)
        files = dict(data_root=str(root), ann_file=FORMATS[form].files('train')[0], data_prefix=dict(img=''))
        filters = dict(filter_empty_gt=True, min_size=32)
        options = dict(metainfo=dict(classes=classes)) if classes else {}
        return DATASETS.build(
            dict(type=name, pipeline=[], filter_cfg=filters, serialize_data=serialize, **files, **options)
        )

    return _build


@pytest.mark.parametrize(
    'form, name, options',
    [
        pytest.param('coco', 'CocoDataset', (), marks=pytest.mark.slow),
        pytest.param('coco', 'CocoDataset', (('person', 'car'), False), marks=pytest.mark.slow),
        ('v3det', 'V3DetDataset', ()),
    ],
    ids=range(3),
)
def test_the_data_are_those_of_mmdet(build, form, name, options):
    stock, ours = (build(form, f'{prefix}{name}', *options) for prefix in ('', 'Indexed'))
    assert len(stock) == len(ours) > 0 and stock.metainfo == ours.metainfo
    assert [stock.get_data_info(i) for i in range(len(stock))] == [ours.get_data_info(i) for i in range(len(ours))]
    assert stock.cat_img_map == ours.cat_img_map and stock.cat_ids == ours.cat_ids and stock.cat2label == ours.cat2label
    assert [stock.get_cat_ids(i) for i in range(len(stock))] == [ours.get_cat_ids(i) for i in range(len(ours))]
    if stock.serialize_data:
        assert np.array_equal(stock.data_bytes, ours.data_bytes)


def test_wrappers_and_subsets_take_them(build):
    stock, ours = (
        DATASETS.build(dict(type='ClassBalancedDataset', oversample_thr=0.5, dataset=build('v3det', name)))
        for name in ('V3DetDataset', 'IndexedV3DetDataset')
    )
    assert ours.repeat_indices == stock.repeat_indices and len(ours) > len(ours.dataset)
    part = ours.dataset.get_subset([0, 2])
    assert part.cat_ids == ours.dataset.cat_ids and part.cat_ids[0] in part.cat_ids and len(part) == 2


class Counted(int):
    """A number that counts how often it is compared."""

    comparisons = 0
    __hash__ = int.__hash__

    def __eq__(self, other):
        Counted.comparisons += 1
        return int(self) == int(other)


def test_a_value_is_found_without_a_search():
    values = IndexedList(map(Counted, range(1000)))
    for known in (values, copy.deepcopy(values)):
        Counted.comparisons = 0
        assert Counted(999) in known and Counted(1000) not in known
        assert Counted.comparisons <= 2
    assert isinstance(values, list) and values[2:4] == [2, 3]

"""Classifiers are counted at the size of their test."""

import pytest
from mmengine.config import Config

from apa_mmdet.apis.get_flops import get_flops
from apa_mmdet.utils.config import BadConfig

LOAD, PACK = dict(type='LoadImageFromFile'), dict(type='PackInputs')


def classifier(*steps, **wrapper):
    backbone = dict(type='mmdet.ResNet', depth=18, base_channels=4, stem_channels=4, num_stages=1, strides=(1,))
    backbone.update(dilations=(1,), out_indices=(0,))
    head = dict(type='LinearClsHead', num_classes=2, in_channels=4)
    model = dict(type='ImageClassifier', backbone=backbone, neck=dict(type='GlobalAveragePooling'), head=head)
    dataset = dict(type='CustomDataset', pipeline=[*steps, PACK])
    loader = dict(dataset=dict(wrapper, dataset=dataset) if wrapper else dataset)
    return Config(dict(default_scope='mmpretrain', model=model, test_dataloader=loader))


@pytest.mark.parametrize(
    'cfg, shape',
    [
        (classifier(LOAD, dict(type='ResizeEdge', scale=80), dict(type='CenterCrop', crop_size=64)), (64, 64)),
        (classifier(LOAD, dict(type='CenterCrop', crop_size=(96, 64))), (64, 96)),  # width first
        (classifier(LOAD, dict(type='CenterCrop', crop_size=64), dict(type='Resize', scale=(96, 32))), (32, 96)),
        (classifier(LOAD, dict(type='Resize', scale=64), type='RepeatDataset', times=2), (64, 64)),
        (classifier(), (32, 32)),
    ],
    ids=['crop', 'pair', 'resized last', 'wrapped', 'in memory'],
)
def test_the_size_is_that_of_the_last_crop_or_resize(cfg, shape):
    assert get_flops(cfg).shape == shape


def test_a_test_that_says_no_size_is_refused():
    for cfg in (classifier(LOAD), Config({**classifier().to_dict(), 'test_dataloader': None})):
        with pytest.raises(BadConfig) as refused:
            get_flops(cfg)
        assert refused.value.code == 'no-image-size'
        assert get_flops(cfg, (64, 64)).shape == (64, 64)

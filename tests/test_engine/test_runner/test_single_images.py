"""Batches of one image: what trains on them, and that a start that could not do so ends in its first step."""

import pytest
from helpers.tiny_runs import Toy, tinier, toy
from mmengine.hooks import Hook
from mmengine.registry import MODELS, RUNNERS
from torch import nn

from apa_mmdet.engine.runner import SafeRunner
from apa_mmdet.engine.runner.single_images import BatchSizes, SingleImage

LAST = dict(batch_size=11)  # of twelve images


class OnePixel(Toy):
    """Its norm sees one pixel of an image of 4x4."""

    def __init__(self, norm=lambda: nn.BatchNorm2d(4)):
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(3, 4, 4), norm(), nn.Linear(4, 2)


class Steps(Hook):
    def __init__(self):
        self.images = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.images.append(len(data_batch['inputs']))


def train(folder, model, **loader):
    runner, steps = toy(folder, runner_type=SafeRunner, epochs=1, loader=loader, options=dict(model=model)), Steps()
    runner.register_hook(steps)
    try:
        runner.train()
    finally:
        left = [norm for norm in model.modules() if norm._forward_pre_hooks]
    assert left == []
    return steps.images


def test_a_last_batch_of_one_image_is_refused_in_the_first_step(tmp_path):
    model = OnePixel()
    with pytest.raises(SingleImage) as refused:
        train(tmp_path, model, **LAST)
    assert refused.value.code == 'single-image' and model.norm.num_batches_tracked == 0
    assert 'the norm norm sees' in str(refused.value) and '(12 images in batches of 11)' in str(refused.value)
    assert 'set train_dataloader.drop_last=True' in str(refused.value) and '\n' not in str(refused.value)


def test_batches_of_one_image_are_refused_with_another_advice(tmp_path):
    with pytest.raises(SingleImage, match='its batches hold one image, .* set a larger batch_size'):
        train(tmp_path, OnePixel(), batch_size=1)


@pytest.mark.parametrize('loader', [dict(LAST, drop_last=True), dict(batch_size=6)], ids=['drop_last', 'even'])
def test_other_batches_train_on_one_pixel(loader, tmp_path):
    assert set(train(tmp_path, OnePixel(), **loader)) <= {6, 11}


@pytest.mark.parametrize('model', ['four pixels', 'group norm', 'Meta-ACON'])
def test_what_needs_no_second_image_trains_on_one(model, tmp_path):
    make = {
        'four pixels': Toy,
        'group norm': lambda: OnePixel(lambda: nn.GroupNorm(2, 4)),
        'Meta-ACON': lambda: OnePixel(lambda: MODELS.build(dict(type='MetaAconC', num_features=4))),
    }[model]
    assert train(tmp_path, make(), **LAST) == [11, 1]


def test_the_drop_last_of_a_batch_sampler_is_named(tmp_path):
    cfg = dict(
        dataset=[dict(img_id=i) for i in range(5)],
        sampler=dict(type='DefaultSampler', shuffle=False),
        batch_sampler=dict(type='mmdet.AspectRatioBatchSampler'),
        batch_size=4,
        num_workers=0,
    )
    sizes = BatchSizes(SafeRunner.build_dataloader(cfg))
    assert (sizes.first, sizes.last, sizes.drop_last) == (4, 1, 'train_dataloader.batch_sampler.drop_last')
    cfg['batch_sampler']['drop_last'] = True
    assert BatchSizes(SafeRunner.build_dataloader(cfg)).last == 4
    endless = dict(cfg, sampler=dict(type='InfiniteSampler'), batch_sampler=None)
    assert BatchSizes(SafeRunner.build_dataloader(endless)).last == 4


def test_a_detector_trains_on_one_image_a_step(tiny_data, tmp_path):
    """With norms in training mode and SE layers, whose norms are over channels."""
    cfg = tinier(tiny_data(), tmp_path, **{'train_dataloader.batch_size': 1, 'default_hooks.checkpoint': None})
    cfg.train_dataloader.dataset.dataset.indices = 2
    runner = RUNNERS.build(cfg)
    runner.train()
    assert runner.iter >= 2 and runner.model.backbone.bn1.num_batches_tracked == runner.iter

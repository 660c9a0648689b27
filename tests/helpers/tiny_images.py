"""Small data sets of image classification in the layouts that the configs expect, and configs cut down to them."""

import pickle
from pathlib import Path

import cv2
import numpy as np

from apa_mmdet.utils.config import apply_options

FOLDERS = (
    'imagenet',
    'imagenet_lt',
    'inat18',
    'places_lt',
    'cifar100_lt',
    'tiny_objects',
    'small_objects',
)  # of configs, which need MMPretrain
ROOTS = dict(
    imagenet='imagenet', imagenet_lt='imagenet', inat18='inat18', places_lt='places365', cifar100_lt='cifar100'
)
LISTS = dict(
    imagenet=('meta/train.txt', 'meta/val.txt'),
    imagenet_lt=('meta/ImageNet_LT_train.txt', 'meta/ImageNet_LT_val.txt', 'meta/ImageNet_LT_test.txt'),
    inat18=('iNaturalist18_train.txt', 'iNaturalist18_val.txt'),
    places_lt=('Places_LT_train.txt', 'Places_LT_val.txt', 'Places_LT_test.txt'),
)


def draw_images(folder, counts=(6, 3, 2), evaluated=2, size=40):
    """Draws one color for each class, with noise; returns the lists, `path label` lines of training and evaluation."""
    rng = np.random.default_rng(0)
    lists = {}
    for split, numbers in (('train', counts), ('val', [evaluated] * len(counts))):
        lists[split] = []
        for label, number in enumerate(numbers):
            (folder / split / f'c{label}').mkdir(parents=True)
            color = np.eye(3)[label % 3] * 200
            for i in range(number):
                image = np.clip(color + rng.normal(0, 40, (size, size + 8, 3)), 0, 255).astype(np.uint8)
                name = f'c{label}/{split}_{i}.png'
                cv2.imwrite(str(folder / split / name), image)
                lists[split].append(f'{split}/{name} {label}')
    return lists


def make_tiny(kind, folder):
    """Makes the data set of ``configs/<kind>`` with 3 classes (CIFAR: 100) in ``folder``, which is its data_root."""
    folder = Path(folder)
    if kind == 'cifar100_lt':
        return make_cifar(folder)
    folder.mkdir(parents=True)
    lists = draw_images(folder)
    for name in LISTS[kind]:
        lines = lists['train' if 'train' in name else 'val']
        (folder / name).parent.mkdir(exist_ok=True)
        # the data set of ImageNet-1K looks in the folder of its split
        lines = [line.split('/', 1)[1] for line in lines] if kind == 'imagenet' else lines
        (folder / name).write_text('\n'.join(lines) + '\n')
    return folder


def make_cifar(folder, images=4):
    """Makes files of CIFAR-100 with ``images`` of each class in training and one in the test."""
    base = folder / 'cifar-100-python'
    base.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, number in (('train', images), ('test', 1)):
        labels = np.tile(np.arange(100), number).tolist()
        data = rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        (base / split).write_bytes(pickle.dumps(dict(data=data, fine_labels=labels)))
    return folder


def without_data(cfg):
    """The config with class counts of its own for the calibration, which otherwise reads the training list."""
    if 'calibration' in cfg.model:
        cfg.model.calibration.stats = dict(image_count=[1] * cfg.model.head.num_classes)
    return cfg


def narrow(cfg, data, work_dir):
    """Cuts a config down to one epoch of a narrow network of depth 50 at most on a small data set, and returns it."""
    cifar = cfg.model.backbone.type == 'SEResNetCifar'
    options = {'data_root': str(data), 'max_epochs': 1, **({} if cifar else {'classes': ['a', 'b', 'c']})}
    apply_options(cfg, cfg.filename, options)
    cfg.model.backbone.update(
        base_channels=4,
        init_cfg=None,
        **({} if cifar else dict(stem_channels=4, depth=min(cfg.model.backbone.depth, 50))),
    )
    if cfg.model.backbone.get('frozen_blocks'):
        cfg.model.backbone.update(frozen_stages=2, frozen_blocks=5)
    cfg.model.head.in_channels = 16 if cifar else 32 if cfg.model.backbone.depth < 50 else 128
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=100 if cifar else 6, num_workers=0)
        loader.dataset.serialize_data = False  # collects garbage twice
        for step in loader.dataset.pipeline:
            step.update({key: 32 for key in ('scale', 'crop_size') if key in step and not cifar})
        if cifar and split == 'train':
            loader.dataset.indices = 100
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.topk = (1, 2)
    cfg.default_hooks.pop('activation_stats')  # draws for longer than the step takes
    cfg.work_dir = str(work_dir)
    return cfg

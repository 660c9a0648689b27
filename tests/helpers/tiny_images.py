"""Small data sets of image classification in the layouts that the configs expect, and configs cut down to them."""

import pickle
from pathlib import Path

import cv2
import numpy as np

FOLDERS = 'imagenet', 'imagenet_lt', 'inat18', 'places_lt', 'cifar100_lt'  # of configs, which need MMPretrain
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

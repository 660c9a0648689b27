import pickle

import numpy as np
import pytest
from helpers.tiny_images import make_cifar
from mmengine.registry import DATA_SAMPLERS, DefaultScope
from mmpretrain.datasets import CIFAR100

from apa_mmdet.datasets.cifar100_lt import CIFAR100LT


def by_hand(labels, ratio):
    """The images that the field's implementation keeps, class after class."""
    np.random.seed(0)
    kept, most = [], max(np.bincount(labels))
    for label in range(100):
        indices = np.where(np.array(labels) == label)[0]
        np.random.shuffle(indices)
        kept.extend(indices[: int(most * (1 / ratio) ** (label / 99))])
    return kept


def test_the_training_images_are_long_tailed_and_the_test_images_all(tmp_path, no_checksums):
    root = make_cifar(tmp_path / 'cifar100', images=20)
    labels = pickle.loads((root / 'cifar-100-python/train').read_bytes())['fine_labels']
    data = CIFAR100LT(data_root=str(root), split='train', ratio=20, download=False, serialize_data=False)
    whole = CIFAR100(data_root=str(root), split='train', download=False, serialize_data=False)
    kept = by_hand(labels, 20)
    assert np.bincount(data.get_gt_labels()).tolist()[::99] == [20, 1]
    assert len(data) == len(kept) and all(
        (data.get_data_info(i)['img'] == whole.get_data_info(int(j))['img']).all() for i, j in enumerate(kept)
    )
    test = CIFAR100LT(data_root=str(root), split='test', ratio=20, download=False, serialize_data=False)
    equal = CIFAR100LT(data_root=str(root), split='train', ratio=1, download=False, serialize_data=False)
    assert (len(test), len(equal)) == (100, len(whole))
    assert data.CLASSES == whole.CLASSES


def test_a_ratio_below_1_is_refused():
    with pytest.raises(ValueError, match=r'CIFAR100LT: ratio must be at least 1, got 0.01'):
        CIFAR100LT(data_root='data', ratio=0.01)


def test_repeated_augmentation_shows_an_image_four_times():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        sampler = DATA_SAMPLERS.build(dict(type='RepeatAugSampler', num_repeats=4, dataset=range(12), seed=0))
    assert np.bincount(list(sampler), minlength=12).tolist().count(4) == 3 and len(sampler) == 12

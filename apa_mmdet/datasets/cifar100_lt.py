import numpy as np
from mmpretrain.datasets import CIFAR100
from mmpretrain.registry import DATASETS

from .annotations.class_counts import exponential_counts


@DATASETS.register_module()
class CIFAR100LT(CIFAR100):
    """MMPretrain's CIFAR100, whose training images are made long-tailed: n_c = 500·ρ^(−c/99) of class c.

    Which images of a class are kept follows the field's implementation (Cao et al., *Learning Imbalanced Datasets with
    Label-Distribution-Aware Margin Loss*, NeurIPS 2019): NumPy's generator, seeded once, shuffles class after class.
    The test images are all of CIFAR-100's.

    Args:
        ratio: ρ, how many times as many images the first class has as the last; 1 keeps all of them.
        subset_seed: of the choice.
        kwargs: all other arguments of CIFAR100.

    Raises:
        ValueError: if ``ratio`` is below 1.
    """

    def __init__(self, *args, ratio: float = 100.0, subset_seed: int = 0, **kwargs) -> None:
        if not ratio >= 1:
            raise ValueError(f'CIFAR100LT: ratio must be at least 1, got {ratio}')
        self.ratio, self.subset_seed = ratio, subset_seed
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        data = super().load_data_list()
        if self.split != 'train':
            return data
        labels = np.array([info['gt_label'] for info in data])
        classes, images = np.unique(labels, return_counts=True)
        counts = exponential_counts(int(images.max()), len(classes), self.ratio)
        generator = np.random.RandomState(self.subset_seed)
        kept: list[int] = []
        for label, count in zip(classes, counts):
            indices = np.flatnonzero(labels == label)
            generator.shuffle(indices)
            kept += indices[:count].tolist()
        return [data[i] for i in kept]

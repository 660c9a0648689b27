"""Registers what this package adds to MMPretrain; a config of image classification imports it.

    custom_imports = dict(imports=['apa_mmdet', 'apa_mmdet.classification'])

Nothing else imports MMPretrain, which is an optional extra: ``pip install 'apa_mmdet[classification]'``.
"""

from .datasets.cifar100_lt import CIFAR100LT
from .models.classifiers import PredictorClsHead

__all__ = ['CIFAR100LT', 'PredictorClsHead']

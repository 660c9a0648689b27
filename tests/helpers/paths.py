"""Places of the repository."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
# modules that need MMPretrain, which only configs of classification ask for
ON_MMPRETRAIN = 'apa_mmdet.classification', 'apa_mmdet.models.classifiers', 'apa_mmdet.datasets.cifar100_lt'
DATA = ROOT / 'tests' / 'data'

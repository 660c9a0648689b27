from .class_frequency import load_class_frequency
from .indexed_datasets import IndexedCocoDataset, IndexedV3DetDataset
from .selective_lvis_dataset import SelectiveLVISV05Dataset, SelectiveLVISV1Dataset
from .transforms import LoadPartialMaskAnnotations

__all__ = [
    'IndexedCocoDataset',
    'IndexedV3DetDataset',
    'LoadPartialMaskAnnotations',
    'SelectiveLVISV05Dataset',
    'SelectiveLVISV1Dataset',
    'load_class_frequency',
]

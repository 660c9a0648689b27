from .class_statistics import load_class_frequency
from .selective_lvis_dataset import SelectiveLVISV05Dataset, SelectiveLVISV1Dataset
from .transforms import LoadPartialMaskAnnotations

__all__ = ['LoadPartialMaskAnnotations', 'SelectiveLVISV05Dataset', 'SelectiveLVISV1Dataset', 'load_class_frequency']

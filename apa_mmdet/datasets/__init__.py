from .class_statistics import load_class_frequency
from .transforms import LoadPartialMaskAnnotations

__all__ = ['LoadPartialMaskAnnotations', 'load_class_frequency']

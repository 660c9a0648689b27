from .fast_coco_metric import FastCocoMetric
from .fast_lvis_metric import FastLVISMetric

__all__ = ['FastCocoMetric', 'FastLVISMetric']

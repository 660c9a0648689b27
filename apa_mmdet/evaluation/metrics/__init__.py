from .coco_box_metric import CocoBoxMetric
from .fast_lvis_metric import FastLVISMetric

__all__ = ['CocoBoxMetric', 'FastLVISMetric']

from .fast_coco_metric import FastCocoMetric
from .fast_lvis_metric import FastLVISMetric
from .shot_accuracy import ShotAccuracy

__all__ = ['FastCocoMetric', 'FastLVISMetric', 'ShotAccuracy']

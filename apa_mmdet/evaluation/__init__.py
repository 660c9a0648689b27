from .concat_dataset_evaluator import ConcatDatasetEvaluator
from .metrics import CocoBoxMetric, FastLVISMetric

__all__ = ['CocoBoxMetric', 'ConcatDatasetEvaluator', 'FastLVISMetric']

from .concat_dataset_evaluator import ConcatDatasetEvaluator
from .metrics import FastCocoMetric, FastLVISMetric

__all__ = ['ConcatDatasetEvaluator', 'FastCocoMetric', 'FastLVISMetric']

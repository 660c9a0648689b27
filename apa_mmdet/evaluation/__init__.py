from .concat_dataset_evaluator import ConcatDatasetEvaluator
from .metrics import FastCocoMetric, FastLVISMetric, ShotAccuracy

__all__ = ['ConcatDatasetEvaluator', 'FastCocoMetric', 'FastLVISMetric', 'ShotAccuracy']

from .metrics import CocoBoxMetric, FastLVISMetric

__all__ = ['CocoBoxMetric', 'FastLVISMetric']

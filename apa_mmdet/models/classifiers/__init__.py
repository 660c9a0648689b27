"""Heads of MMPretrain's classifiers. Needs MMPretrain, which is why the package imports it only on demand."""

from .predictor_cls_head import PredictorClsHead

__all__ = ['PredictorClsHead']

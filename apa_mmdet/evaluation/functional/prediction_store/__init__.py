"""Predictions of a test on disk: one file per process, one record per image, nothing that could run code."""

from .format import Masks, Prediction, PredictionError
from .gather import gather_files
from .reader import PredictionFiles, find_predictions, read_predictions
from .writer import PredictionWriter

__all__ = [
    'Masks',
    'Prediction',
    'PredictionError',
    'PredictionFiles',
    'PredictionWriter',
    'find_predictions',
    'gather_files',
    'read_predictions',
]

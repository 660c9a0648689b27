"""The activation functions on tensors. Imports torch alone, so it can be used without MMDetection."""

from .acon import acon
from .apa import LAMBDA_FLOOR, aglu, apa, neg_log_apa
from .apalu import apalu
from .dispatch import backends, use_backend
from .recompute import keep_recipe

__all__ = ['LAMBDA_FLOOR', 'acon', 'aglu', 'apa', 'apalu', 'backends', 'keep_recipe', 'neg_log_apa', 'use_backend']

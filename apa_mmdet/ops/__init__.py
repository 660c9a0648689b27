"""The activation functions on tensors. Imports only torch."""

from .acon import acon
from .apa import LAMBDA_FLOOR, aglu, apa, neg_log_apa
from .apalu import apalu
from .dispatch import backends, use_backend
from .recompute import call_with_recomputation

__all__ = [
    'LAMBDA_FLOOR',
    'acon',
    'aglu',
    'apa',
    'apalu',
    'backends',
    'call_with_recomputation',
    'neg_log_apa',
    'use_backend',
]

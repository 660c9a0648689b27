"""The activation functions on tensors. Imports only torch."""

from .acon import acon
from .apa import aglu, apa, neg_log_apa
from .apalu import apalu
from .dispatch import backends, use_backend
from .memory_layout import LAMBDA_FLOOR, Norm
from .recompute import call_with_recomputation
from .squeeze_excite import squeeze_excite

__all__ = [
    'LAMBDA_FLOOR',
    'Norm',
    'acon',
    'aglu',
    'apa',
    'apalu',
    'backends',
    'call_with_recomputation',
    'neg_log_apa',
    'squeeze_excite',
    'use_backend',
]

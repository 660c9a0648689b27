from .fused import norm_act, residual_act
from .se_layer import SELayer

__all__ = ['SELayer', 'norm_act', 'residual_act']

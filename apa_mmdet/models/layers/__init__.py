from .cbam import CBAM
from .fused import norm_act, residual_act
from .se_layer import SELayer, build_attention
from .swap import swap_activations

__all__ = ['CBAM', 'SELayer', 'build_attention', 'norm_act', 'residual_act', 'swap_activations']

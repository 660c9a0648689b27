from .carafe import DeviceAgnosticCARAFEPack
from .cbam import CBAM
from .cosine_linear import CosineLinear
from .many_class_nms import many_class_nms
from .mmcv_operators import guard_operators, to_channels_last
from .norm_act import norm_act, residual_act
from .normed_predictor import LearnableNormedConv2d
from .se_layer import SELayer, build_attention
from .wrapped_cauchy_linear import WrappedCauchyLinear

__all__ = [
    'CBAM',
    'CosineLinear',
    'DeviceAgnosticCARAFEPack',
    'LearnableNormedConv2d',
    'SELayer',
    'WrappedCauchyLinear',
    'build_attention',
    'guard_operators',
    'many_class_nms',
    'norm_act',
    'residual_act',
    'to_channels_last',
]

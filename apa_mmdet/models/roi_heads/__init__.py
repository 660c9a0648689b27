from .carafe import PortableCARAFEPack, carafe
from .many_class_head import ManyClassBBoxHead
from .normed_conv import LearnableNormedConv2d
from .optional_mask_head import OptionalMaskHead
from .wrapped_cauchy import WrappedCauchyLinear

__all__ = [
    'LearnableNormedConv2d',
    'ManyClassBBoxHead',
    'OptionalMaskHead',
    'PortableCARAFEPack',
    'WrappedCauchyLinear',
    'carafe',
]

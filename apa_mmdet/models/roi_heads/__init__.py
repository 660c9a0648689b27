from .carafe import PortableCARAFEPack, carafe
from .normed_conv import LearnableNormedConv2d

__all__ = ['LearnableNormedConv2d', 'PortableCARAFEPack', 'carafe']

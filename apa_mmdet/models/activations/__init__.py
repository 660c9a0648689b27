from .aglu import AGLU
from .apa import APA
from .base import build_activation

__all__ = ['AGLU', 'APA', 'build_activation']

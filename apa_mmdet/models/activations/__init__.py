from .acon import AconA, AconB, AconC
from .aglu import AGLU
from .apa import APA
from .apalu import APALU
from .base import build_activation
from .meta_acon import MetaAconC

__all__ = ['AGLU', 'APA', 'APALU', 'AconA', 'AconB', 'AconC', 'MetaAconC', 'build_activation']

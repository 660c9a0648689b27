from .acon import AconA, AconB, AconC
from .aglu import AGLU
from .apa import APA, APAActivation
from .apalu import APALU
from .base import Healthy, LearnableActivation, LearnableFunction, Symbol, build_activation, learnable_activations
from .meta_acon import MetaAconC

__all__ = [
    'AGLU',
    'APA',
    'APALU',
    'APAActivation',
    'AconA',
    'AconB',
    'AconC',
    'Healthy',
    'LearnableActivation',
    'LearnableFunction',
    'MetaAconC',
    'Symbol',
    'build_activation',
    'learnable_activations',
]

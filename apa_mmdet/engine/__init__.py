from .activation_stats import ActivationStatsHook
from .checkpoint_hook import SafeCheckpointHook, WholeFileBackend
from .health import ActivationHealthHook, SkipNonFiniteHook
from .optim_wrapper import MixedPrecisionOptimWrapper
from .random_state import ExactResumeHook

__all__ = [
    'ActivationHealthHook',
    'ActivationStatsHook',
    'ExactResumeHook',
    'MixedPrecisionOptimWrapper',
    'SafeCheckpointHook',
    'SkipNonFiniteHook',
    'WholeFileBackend',
]

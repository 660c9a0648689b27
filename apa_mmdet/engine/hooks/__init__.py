from .activation_health_hook import ActivationHealthHook
from .activation_stats_hook import ActivationStatsHook
from .atomic_checkpoint_hook import AtomicCheckpointHook
from .channels_last_hook import ChannelsLastHook
from .exact_resume_hook import ExactResumeHook
from .skip_non_finite_hook import SkipNonFiniteHook

__all__ = [
    'ActivationHealthHook',
    'ActivationStatsHook',
    'AtomicCheckpointHook',
    'ChannelsLastHook',
    'ExactResumeHook',
    'SkipNonFiniteHook',
]

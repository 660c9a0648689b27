from .cpu_launcher import LauncherError, join_on_cpu
from .endless_batches import NoBatches
from .loops import ResumableEpochBasedTrainLoop, ResumableIterBasedTrainLoop
from .safe_runner import SafeRunner

__all__ = [
    'LauncherError',
    'NoBatches',
    'ResumableEpochBasedTrainLoop',
    'ResumableIterBasedTrainLoop',
    'SafeRunner',
    'join_on_cpu',
]

from .cpu_launcher import LauncherError, join_on_cpu
from .loops import ResumableEpochBasedTrainLoop, ResumableIterBasedTrainLoop
from .safe_runner import SafeRunner

__all__ = ['LauncherError', 'ResumableEpochBasedTrainLoop', 'ResumableIterBasedTrainLoop', 'SafeRunner', 'join_on_cpu']

from .cpu_runner import CPURunner
from .loops import ResumableEpochBasedTrainLoop, ResumableIterBasedTrainLoop

__all__ = ['CPURunner', 'ResumableEpochBasedTrainLoop', 'ResumableIterBasedTrainLoop']

from .cpu_runner import CPURunner

__all__ = ['CPURunner']

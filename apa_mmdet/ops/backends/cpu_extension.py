"""Builds ``cpu_extension.cpp`` and loads it: the host side of the operator on a CPU without Python.

:mod:`~apa_mmdet.ops.backends.extension` says when it is built.
"""

import ctypes
import functools
from pathlib import Path
from types import ModuleType

from apa_mmdet.ops.memory_layout import LAMBDA_FLOOR

from . import cpu, extension
from .extension import is_supported

__all__ = ['build', 'is_supported', 'library', 'load']
SOURCES = [Path(__file__).with_name(name) for name in ('cpu_extension.cpp', 'cpu_call.h', 'extension.h')]
NAME = 'apa_mmdet_cpu_extension'


def library() -> Path:
    return extension.library(NAME, SOURCES)


def build() -> Path:
    """As :func:`apa_mmdet.ops.backends.extension.build`."""
    return extension.build(library(), SOURCES[0])


@functools.cache
def load() -> ModuleType | None:
    """Returns the extension if it has been built and the kernels serve, else None."""
    kernels = cpu.load()
    module = None if kernels is None else extension.load(library(), NAME)
    if module is not None:
        names = 'apa_forward', 'apa_backward', 'apa_gate_forward', 'apa_gate_backward'
        addresses = [ctypes.cast(getattr(kernels, name), ctypes.c_void_p).value for name in names]
        module.configure(*addresses, LAMBDA_FLOOR, cpu.PIECE, cpu.MIN_PIECE_POSITIONS)
    return module

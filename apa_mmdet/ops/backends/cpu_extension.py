"""Builds ``cpu_extension.cpp`` and loads it: the host side of the operator on a CPU without Python.

    python -m apa_mmdet.ops.backends

builds it, as set-up does: half a minute, once for each PyTorch and Python, into the folder that
:mod:`~apa_mmdet.ops.backends.cpu` keeps the kernels in. ``CXX`` names the compiler (default: c++). Nothing builds it at
run time: where it is missing, :mod:`~apa_mmdet.ops.dispatch` computes the same with more host time a call.
"""

import ctypes
import functools
import hashlib
import importlib.util
import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from pathlib import Path
from types import ModuleType

import torch

from apa_mmdet.ops.memory_layout import LAMBDA_FLOOR

from . import cpu

SOURCES = Path(__file__).with_name('cpu_extension.cpp'), Path(__file__).with_name('cpu_call.h')
NAME = 'apa_mmdet_cpu_extension'
FLAGS = f'-std=c++20 -O2 -fPIC -shared -w -D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}'


def library() -> Path:
    """Returns the path that the built extension has, whether it exists or not."""
    versions = f'{torch.__version__} {sys.implementation.cache_tag} {sysconfig.get_platform()} {FLAGS}'
    key = hashlib.sha256(b'\0'.join([*(file.read_bytes() for file in SOURCES), versions.encode()])).hexdigest()
    return cpu.cache_folder() / f'{NAME}-{key[:16]}.so'


def is_supported() -> bool:
    """Whether this torch can do what the source asks for; torch 2.1 cannot, nor differentiate without all tensors."""
    header = Path(torch.__file__).parent / 'include/c10/core/impl/TorchDispatchModeTLS.h'
    return header.exists() and 'any_modes_set' in header.read_text()


def build() -> Path:
    """Compiles the source if needed; returns the path of the extension.

    Raises:
        ValueError: if this torch is too old, or has no headers.
        OSError: if there is no compiler.
        subprocess.CalledProcessError: if the compiler fails.
    """
    made = library()
    if not is_supported():
        raise ValueError(f'the extension needs the headers of torch >= 2.2, and this is {torch.__version__}')
    if not made.exists():
        root = Path(torch.__file__).parent
        folders = root / 'include', root / 'include/torch/csrc/api/include', sysconfig.get_paths()['include']
        command = [
            *shlex.split(os.environ.get('CXX') or 'c++'),
            *FLAGS.split(),
            *(f'-isystem{folder}' for folder in folders),
            str(SOURCES[0]),
            f'-L{root / "lib"}',
            *(f'-l{name}' for name in ('torch', 'torch_cpu', 'c10', 'torch_python')),
        ]
        with tempfile.TemporaryDirectory(dir=made.parent) as scratch:
            new = Path(scratch, made.name)
            subprocess.run([*command, '-o', str(new)], check=True, capture_output=True)
            os.replace(new, made)
    return made


@functools.cache
def load() -> ModuleType | None:
    """Returns the extension if it has been built and the kernels serve, else None."""
    path, kernels = library(), cpu.load()
    if kernels is None or not path.exists():
        return None
    try:
        spec = importlib.util.spec_from_file_location(NAME, path)
        module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    except ImportError as error:
        warnings.warn(
            f'apa_mmdet: {path} cannot be loaded ({error}); delete it and build it again with '
            'python -m apa_mmdet.ops.backends. Until then a call on the CPU costs more time.',
            stacklevel=2,
        )
        return None
    names = 'apa_forward', 'apa_backward', 'apa_gate_forward', 'apa_gate_backward'
    addresses = [ctypes.cast(getattr(kernels, name), ctypes.c_void_p).value for name in names]
    module.configure(*addresses, LAMBDA_FLOOR, cpu.PIECE, cpu.MIN_PIECE_POSITIONS)
    return module

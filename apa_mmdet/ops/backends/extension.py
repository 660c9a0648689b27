"""Compiles and loads the extensions, the host side of the operators in C++; cpu_extension and triton_extension are two.

Set-up builds them (``python -m apa_mmdet.ops.backends``), once for each PyTorch and Python, in the folder that
:mod:`~apa_mmdet.ops.backends.cpu` keeps the kernels in. ``CXX`` names the compiler (default: c++). Nothing builds them
at run time: where one is missing, :mod:`~apa_mmdet.ops.dispatch` computes the same with more host time a call.
"""

import hashlib
import importlib.util
import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch

from . import cpu

FLAGS = f'-std=c++20 -O2 -fPIC -shared -w -D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}'


def library(name: str, sources: Sequence[Path]) -> Path:
    """Returns the path that an extension has or will have, as :func:`apa_mmdet.ops.backends.cpu.path_of`."""
    versions = f'{torch.__version__} {sys.implementation.cache_tag} {sysconfig.get_platform()} {FLAGS}'
    key = hashlib.sha256(b'\0'.join([*(file.read_bytes() for file in sources), versions.encode()])).hexdigest()
    return cpu.path_of(f'{name}-{key[:16]}.so')


def is_supported() -> bool:
    """Whether this torch can do what the source asks for; torch 2.1 cannot, nor differentiate without all tensors."""
    header = Path(torch.__file__).parent / 'include/c10/core/impl/TorchDispatchModeTLS.h'
    return header.exists() and 'any_modes_set' in header.read_text()


def build(made: Path, source: Path) -> Path:
    """Compiles a source to ``made`` if needed, and returns that.

    Raises:
        ValueError: if this torch is too old, or has no headers.
        OSError: if there is no compiler.
        subprocess.CalledProcessError: if the compiler fails.
    """
    if not is_supported():
        raise ValueError(f'the extension needs the headers of torch >= 2.2, and this is {torch.__version__}')
    if not made.exists():
        root = Path(torch.__file__).parent
        folders = root / 'include', root / 'include/torch/csrc/api/include', sysconfig.get_paths()['include']
        command = [
            *shlex.split(os.environ.get('CXX') or 'c++'),
            *FLAGS.split(),
            *(f'-isystem{folder}' for folder in folders),
            str(source),
            f'-L{root / "lib"}',
            *(f'-l{name}' for name in ('torch', 'torch_cpu', 'c10', 'torch_python')),
        ]
        with tempfile.TemporaryDirectory(dir=made.parent) as scratch:
            new = Path(scratch, made.name)
            subprocess.run([*command, '-o', str(new)], check=True, capture_output=True)
            os.replace(new, made)
    return made


def load(path: Path, name: str) -> ModuleType | None:
    """Returns the extension if it has been built, else None; after a warning, if it is damaged."""
    if not path.exists():
        return None
    try:
        spec = importlib.util.spec_from_file_location(name, path)
        return importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    except ImportError as error:
        warnings.warn(
            f'apa_mmdet: {path} cannot be loaded ({error}); delete it and build it again with '
            'python -m apa_mmdet.ops.backends. Until then a call costs more time.',
            stacklevel=3,
        )
        return None

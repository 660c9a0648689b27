"""Compiles ``cpu_kernels.c`` and ``cpu_gate.c`` on first use (a second or two, once a machine), loads it, and calls it.

The library is in ``${XDG_CACHE_HOME:-~/.cache}/apa_mmdet``, under a name made of the source and the processor. Where it
is missing and cannot be written there, each process builds it in a temporary folder. ``CC`` names the compiler (default
cc). Without one, :mod:`~apa_mmdet.ops.backends.analytic` gives the same results several times slower, after a warning.
"""

import atexit
import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import struct
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from apa_mmdet.ops.memory_layout import (
    DIFFERENTIABLE,
    FORMULAS,
    LAMBDA_FLOOR,
    Arguments,
    empty_result,
    in_order_of,
    layout_of,
)

SOURCES = [Path(__file__).with_name(f'cpu_{name}') for name in ('kernels.c', 'gate.c', 'formulas.h', 'call.h')]
FLAGS = (
    '-std=gnu11 -O3 -march=native -fopenmp -fPIC -shared -ffp-contract=fast -fno-math-errno -fno-trapping-math '
    '-fno-signed-zeros -ffinite-math-only'
)
if platform.machine() in ('x86_64', 'AMD64'):
    FLAGS += ' -mprefer-vector-width=512'
RESIDUAL = DIFFERENTIABLE.index('residual')
PIECE = 16384  # elements of a piece, which a thread handles at a time and sums in float32
MIN_PIECE_POSITIONS = 64  # in channels_last, where every piece writes sums for all channels


# the struct Call of the kernels: 9 integers, the floor of λ, then pointers and two eps in its order
_pack = struct.Struct('@9qd7Qd6Qd10Q').pack


def build(again: bool = False) -> Path:
    """Compiles the source if needed, or ``again``; returns the path of the library.

    Raises:
        OSError: if there is no compiler.
        ValueError: if ``CC`` is not a command.
        subprocess.CalledProcessError: if the compiler fails.
    """
    content = [file.read_bytes() for file in SOURCES]
    key = hashlib.sha256(b'\0'.join([*content, FLAGS.encode(), _processor()])).hexdigest()
    name = f'cpu_kernels-{key[:16]}.so'
    library = cache_folder() / name if again else path_of(name)
    if again or not library.exists():
        compiler = shlex.split(os.environ.get('CC') or 'cc')
        # Processes may build at once, and the last one wins. Not utils/fileio.py: ops import torch alone.
        with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
            made = Path(scratch, library.name)
            command = [*compiler, *FLAGS.split(), *map(str, SOURCES[:2]), '-o', str(made), '-lm']
            subprocess.run(command, check=True, capture_output=True)
            os.replace(made, library)
    return library


def path_of(name: str) -> Path:
    """Returns where a file has been built, maybe in a folder that this user cannot write, else where to build it."""
    with contextlib.suppress(RuntimeError):
        if os.access(path := home_folder() / name, os.R_OK):
            return path
    return cache_folder() / name


@functools.cache
def cache_folder() -> Path:
    """Returns the folder to build in: that of the user, or a temporary one where that cannot be written."""
    try:
        return writable_home_folder()
    except OSError:
        temporary = tempfile.mkdtemp(prefix='apa_mmdet-')
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        return Path(temporary)


def writable_home_folder() -> Path:
    """Returns the folder of what is built for this machine, and stays.

    Raises:
        OSError: if there is no home folder, or it cannot be written.
    """
    try:
        folder = home_folder()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError) as error:
        raise OSError(
            f'there is no folder to keep what is built ({error}): name one that can be written with XDG_CACHE_HOME'
        ) from None


def home_folder() -> Path:
    """Returns the folder of what is built for this machine, whether it exists or not.

    Raises:
        RuntimeError: if there is no home folder.
    """
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'apa_mmdet'


def _processor() -> bytes:
    """Returns what -march=native depends on, as machines with different processors may share a home folder."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        return '\n'.join(
            sorted({line for line in lines if line.startswith(('flags', 'Features', 'model name'))})
        ).encode()
    except OSError:
        return ' '.join(platform.uname()).encode()


def reason_of(error: Exception) -> str:
    """Why a build failed: what the compiler wrote, else how it ended."""
    if not isinstance(error, subprocess.CalledProcessError):
        return str(error)
    written = (error.stderr or b'').decode(errors='replace').strip()
    return written or f'{error.cmd[0]} returned non-zero exit status {error.returncode}'


@functools.cache
def load() -> ctypes.CDLL | None:
    """Returns the library, built if needed; None, after a warning, if it cannot be built."""
    try:
        try:
            library = ctypes.CDLL(str(build()))
        except OSError:
            library = ctypes.CDLL(str(build(again=True)))  # it was damaged
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        warnings.warn(
            'apa_mmdet: the fast CPU kernels could not be built, so APA and AGLU run in plain PyTorch on the '
            f'CPU, several times slower. Install gcc or name a compiler with CC. Reason: {reason_of(error)[:500]}',
            stacklevel=2,
        )
        return None
    for function in (library.apa_forward, library.apa_backward):
        function.argtypes, function.restype = [ctypes.c_char_p], None
    return library


def serves(x: Tensor) -> bool:
    return x.device.type == 'cpu' and x.dtype in (torch.float32, torch.bfloat16, torch.float16) and load() is not None


def forward(formula: str, args: Arguments) -> Tensor:
    out = empty_result(args.x, args.per_channel)
    work = out if out.dtype == torch.float32 else torch.empty_like(out, dtype=torch.float32)
    call, _kept = _describe(formula, args, work)
    load().apa_forward(call)  # type: ignore[union-attr]
    return out if work is out else out.copy_(work)


def backward(formula: str, grad: Tensor, args: Arguments, needed: Sequence[bool]) -> list[Tensor | None]:
    to_x = empty_result(args.x, args.per_channel)
    work = to_x if to_x.dtype == torch.float32 else torch.empty_like(to_x, dtype=torch.float32)
    given = [getattr(args, name) for name in DIFFERENTIABLE]
    results: list[Tensor | None] = [
        torch.empty(t.shape, dtype=torch.float32) if wanted and t is not None else None
        for t, wanted in zip(given, needed)
    ]
    results[0] = work
    if args.residual is not None:  # in the memory order of x
        results[RESIDUAL] = torch.empty_like(work)
    call, _kept = _describe(formula, args, work, grad, results[1:])
    load().apa_backward(call)  # type: ignore[union-attr]
    if work is not to_x:
        results[0] = to_x.copy_(work)
    return [r if r is None or t is None or r.dtype == t.dtype else r.to(t.dtype) for r, t in zip(results, given)]


def _describe(
    formula: str,
    args: Arguments,
    out: Tensor,
    grad: Tensor | None = None,
    results: Sequence[Tensor | None] = (None,) * 8,
) -> tuple[bytes, list[Tensor]]:
    """Returns the struct ``Call`` of the kernels, and temporary tensors that it points to."""
    images, channels, positions, channels_last = layout_of(out, args)
    piece = max(MIN_PIECE_POSITIONS, PIECE // channels) if channels_last and channels else PIECE
    kept: list[Tensor] = []
    call = _pack(
        FORMULAS.index(formula),
        images,
        channels,
        positions,
        piece,
        channels_last,
        torch.get_num_threads(),
        args.lambda_.numel() != 1,
        args.kappa.numel() != 1,
        LAMBDA_FLOOR,
        _elements(args.x, out, kept),
        *[_address(t, kept) for t in (args.lambda_, args.kappa, *args.norm)],
        args.eps,
        _address(args.gate, kept),
        _elements(args.residual, out, kept),
        *[_address(t, kept) for t in args.residual_norm],
        args.residual_eps,
        _elements(grad, out, kept),
        out.data_ptr(),
        *[0 if t is None else t.data_ptr() for t in results],
    )
    return call, kept


def _address(tensor: Tensor | None, kept: list[Tensor]) -> int:
    """Returns where the values lie contiguous in float32, in ``tensor`` or in a copy that is added to ``kept``."""
    if tensor is None:
        return 0
    if tensor.dtype != torch.float32 or not tensor.is_contiguous():
        tensor = tensor.float().contiguous()
        kept.append(tensor)
    return tensor.data_ptr()


def _elements(tensor: Tensor | None, like: Tensor, kept: list[Tensor]) -> int:
    """Returns where the values lie in float32 and in the memory order of ``like``."""
    if tensor is None:
        return 0
    ordered = in_order_of(like, tensor)
    if ordered.dtype != torch.float32:
        ordered = ordered.float()
    if ordered is not tensor:
        kept.append(ordered)
    return ordered.data_ptr()

"""Compiles ``cpu_kernels.c`` on first use (a second or two, once a machine), loads it, and calls it.

The library is in ``${XDG_CACHE_HOME:-~/.cache}/apa_mmdet``, under a name made of the source and the processor, or in a
temporary folder where that cannot be written. ``CC`` names the compiler (default: cc). Without a compiler,
:mod:`~apa_mmdet.ops.backends.analytic` gives the same results several times slower, after a warning.
"""

import atexit
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor

from apa_mmdet.ops.memory_layout import FORMULAS, Arguments, empty_result, in_order_of, layout_of, reduce_sums

SOURCE = Path(__file__).with_name('cpu_kernels.c')
FLAGS = (
    '-std=gnu11 -O3 -march=native -fopenmp -fPIC -shared -ffp-contract=fast -fno-math-errno -fno-trapping-math '
    '-fno-signed-zeros -ffinite-math-only'
)
if platform.machine() in ('x86_64', 'AMD64'):
    FLAGS += ' -mprefer-vector-width=512'
SUMS = ('scale', 'shift', 'residual_scale', 'lambda_', 'kappa')  # the order in which the kernels write their sums
PIECE = 16384  # elements of a piece, which a thread handles at a time and sums in float32
MIN_PIECE_POSITIONS = 64  # in channels_last, where every piece writes sums for all channels


class Shape(ctypes.Structure):
    _names = 'images', 'channels', 'positions', 'piece', 'channels_last', 'image_step', 'threads'
    _fields_ = [(name, ctypes.c_int64) for name in _names]


class Parameters(ctypes.Structure):
    _names = 'scale', 'shift', 'residual_scale', 'lambda_', 'inverse', 'log_lambda', 'kappa'
    _fields_ = [(name, ctypes.c_void_p) for name in _names]


def build() -> Path:
    """Compiles the source if needed; returns the path of the library.

    Raises:
        OSError: if there is no compiler.
        ValueError: if ``CC`` is not a command.
        subprocess.CalledProcessError: if the compiler fails.
    """
    key = hashlib.sha256(b'\0'.join([SOURCE.read_bytes(), FLAGS.encode(), _processor()])).hexdigest()
    library = _folder() / f'cpu_kernels-{key[:16]}.so'
    if not library.exists():
        compiler = shlex.split(os.environ.get('CC') or 'cc')
        # Processes may build at once, and the last one wins. Not utils/fileio.py: ops import torch alone.
        with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
            made = Path(scratch, library.name)
            subprocess.run([*compiler, *FLAGS.split(), str(SOURCE), '-o', str(made)], check=True, capture_output=True)
            os.replace(made, library)
    return library


@functools.cache
def _folder() -> Path:
    try:
        folder = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'apa_mmdet'
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):  # no home folder, or it cannot be written
        temporary = tempfile.mkdtemp(prefix='apa_mmdet-')
        atexit.register(shutil.rmtree, temporary, ignore_errors=True)
        return Path(temporary)


def _processor() -> bytes:
    """Returns what -march=native depends on, as machines with different processors may share a home folder."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        return '\n'.join(
            sorted({line for line in lines if line.startswith(('flags', 'Features', 'model name'))})
        ).encode()
    except OSError:
        return ' '.join(platform.uname()).encode()


@functools.cache
def load() -> ctypes.CDLL | None:
    """Returns the library, built if needed; None, after a warning, if it cannot be built."""
    try:
        try:
            library = ctypes.CDLL(str(build()))
        except OSError:
            build().unlink()  # damaged
            library = ctypes.CDLL(str(build()))
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, 'stderr', None) or b'').decode(errors='replace').strip() or str(error)
        warnings.warn(
            'apa_mmdet: the fast CPU kernels could not be built, so APA and AGLU run in plain PyTorch on the '
            f'CPU, several times slower. Install gcc or name a compiler with CC. Reason: {reason[:500]}',
            stacklevel=2,
        )
        return None
    library.apa_forward.restype = library.apa_backward.restype = None
    return library


def serves(x: Tensor) -> bool:
    return x.device.type == 'cpu' and x.dtype in (torch.float32, torch.bfloat16, torch.float16) and load() is not None


def forward(formula: str, args: Arguments) -> Tensor:
    out = empty_result(args.x, args.per_channel)
    work = out if out.dtype == torch.float32 else torch.empty_like(out, dtype=torch.float32)
    inputs = [_single(t, out) for t in (args.x, args.residual)]
    _call('apa_forward', formula, *_describe(out, args), *inputs, work)
    return out if work is out else out.copy_(work)


def backward(formula: str, grad: Tensor, args: Arguments) -> Arguments:
    to_x = empty_result(args.x, args.per_channel)
    grad_x = to_x if to_x.dtype == torch.float32 else torch.empty_like(to_x, dtype=torch.float32)
    grad_residual = None if args.residual is None else torch.empty_like(to_x, dtype=torch.float32)
    shape, parameters = _describe(to_x, args)
    pieces = -(-shape.positions // shape.piece)
    if shape.channels_last:
        sums = grad_x.new_zeros(shape.images, pieces, len(SUMS), shape.channels)
    else:
        sums = grad_x.new_zeros(shape.images, shape.channels, pieces, len(SUMS)).permute(0, 2, 3, 1)
    inputs = [_single(t, to_x) for t in (grad, args.x, args.residual)]
    _call('apa_backward', formula, shape, parameters, *inputs, grad_x, grad_residual, sums)
    totals = dict(zip(SUMS, sums.sum(1, dtype=torch.float64).unbind(1)))
    totals['lambda_'] /= args.lambda_.square()
    totals['kappa'] /= args.lambda_
    return Arguments(
        x=to_x if grad_x is to_x else to_x.copy_(grad_x),
        residual=None if args.residual is None or grad_residual is None else grad_residual.to(args.residual.dtype),
        **reduce_sums(totals, args),
    )


def _single(tensor: Tensor | None, like: Tensor) -> Tensor | None:
    """Returns the tensor in float32 and in the memory order of ``like``."""
    return None if tensor is None else in_order_of(like, tensor).float()


def _describe(result: Tensor, args: Arguments) -> tuple[Shape, list[Tensor]]:
    """Returns the shape for the kernels, and the tensors of :class:`Parameters`."""
    layout = layout_of(result, args)
    piece = max(MIN_PIECE_POSITIONS, PIECE // layout.channels) if layout.channels_last and layout.channels else PIECE
    shape = Shape(*layout[:3], piece, layout.channels_last, args.per_image * layout.channels, torch.get_num_threads())
    rows = layout.images if args.per_image else 1
    planes = [
        args.lambda_.new_tensor(default) if parameter is None else parameter
        for parameter, default in ((args.scale, 1.0), (args.shift, 0.0), (args.residual_scale, 1.0))
    ]
    planes = [parameter.expand(rows, layout.channels).contiguous() for parameter in planes]
    curve = [args.lambda_, args.lambda_.reciprocal(), args.lambda_.log(), args.kappa]
    curve = [parameter.expand(layout.channels).contiguous() for parameter in curve]
    if (args.lambda_ + args.kappa).isnan().any():  # the kernels detect NaN in z only
        planes[1] = torch.where((curve[0] + curve[3]).isnan(), torch.nan, planes[1]).contiguous()
    return shape, planes + curve


def _call(function: str, formula: str, shape: Shape, parameters: list[Tensor], *tensors: Tensor | None) -> None:
    pointers = Parameters(*(t.data_ptr() for t in parameters))
    addresses = [None if t is None else ctypes.c_void_p(t.data_ptr()) for t in tensors]
    getattr(load(), function)(FORMULAS.index(formula), ctypes.byref(shape), ctypes.byref(pointers), *addresses)

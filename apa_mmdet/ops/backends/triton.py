"""Launches the Triton kernels: chooses tiles, starts the programs, adds up their sums."""

import functools
import warnings
from math import gcd
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from apa_mmdet.ops.memory_layout import Arguments, Layout, empty_result, in_order_of, layout_of, reduce_sums

from .triton_kernels import STORED, backward_kernel, forward_kernel

WARPS = 4
# Elements of a tile: in half precision two loads of 16 bytes a thread, or one from each of two tensors. That is enough
# in flight to hide the latency of the memory, and leaves registers for many programs side by side.
FORWARD_TILE = 2048
BACKWARD_TILE = 1024
MIN_CONTIGUOUS = 16  # elements of a tile side by side in memory: a GPU moves at least 32 bytes
MAX_BLOCK_CHANNELS = 128
MAX_LOAD = 8  # elements: 16 bytes in half precision
PROGRAMS = 2048  # a round or two on a large GPU; where there are more tiles than that, a program handles several
MAX_TILES = 16
MIN_TILES_CHANNELS_LAST = 4  # a program there prepares parameters, and stores sums, for up to 128 channels

# Triton 2 always fuses multiplications with additions and has no such option; later versions need it
OPTIONS = {} if triton.__version__.startswith('2.') else dict(enable_fp_fusion=True)


class Tiling(NamedTuple):
    """``blocks`` x ``spans`` programs for each image; a program handles ``tiles`` consecutive tiles."""

    block_c: int
    block_s: int
    blocks: int
    spans: int
    tiles: int


def tiling_of(layout: Layout, size: int) -> Tiling:
    """Returns the tiling by tiles of ``size`` elements, or fewer where an image has fewer."""
    if layout.channels_last:
        block_c = _block(layout.channels, MAX_BLOCK_CHANNELS)
        block_s = min(size // block_c, _power_of_2(layout.positions))
    else:
        block_s = _block(layout.positions, size)
        block_c = min(size // block_s, _power_of_2(layout.channels))
    blocks, along = triton.cdiv(layout.channels, block_c), triton.cdiv(layout.positions, block_s)
    tiles = max(MIN_TILES_CHANNELS_LAST if layout.channels_last else 1, layout.images * blocks * along // PROGRAMS)
    tiles = max(1, min(tiles, MAX_TILES, along))
    return Tiling(block_c, block_s, blocks, triton.cdiv(along, tiles), tiles)


def _block(extent: int, most: int) -> int:
    """Returns the largest power of 2 up to ``most`` that pads ``extent`` by at most an eighth, else the least."""
    if extent < MIN_CONTIGUOUS:
        return _power_of_2(extent)
    sizes = [most >> i for i in range(most.bit_length()) if most >> i >= MIN_CONTIGUOUS]
    padded = {size: triton.cdiv(extent, size) * size for size in sizes}
    return next((size for size in sizes if 8 * padded[size] <= 9 * extent), min(sizes, key=padded.__getitem__))


def _power_of_2(extent: int) -> int:
    return triton.next_power_of_2(max(1, extent))


def serves(x: Tensor) -> bool:
    return x.is_cuda and x.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64) and works(x.device)


@functools.cache
def works(device: torch.device) -> bool:
    """Whether Triton works on this device, with a warning if not: it needs a C compiler and a GPU it supports."""
    one = torch.ones((), device=device)
    try:
        forward('aglu', Arguments(one, one, one))
    except Exception as error:  # of Triton, of the compiler or of the driver
        warnings.warn(
            'apa_mmdet: the GPU kernels could not be built, so APA and AGLU run in plain PyTorch on the GPU, '
            f'slower and with more temporary memory. Reason: {type(error).__name__}: {str(error)[:500]}',
            stacklevel=2,
        )
        return False
    return True


def forward(formula: str, args: Arguments) -> Tensor:
    out = empty_result(args.x, args.per_channel)
    layout = layout_of(out, args)
    inputs = _in_order_of(out, args.x, args.residual)
    _launch(forward_kernel, formula, args, layout, tiling_of(layout, FORWARD_TILE), *inputs, out)
    return out


def backward(formula: str, grad: Tensor, args: Arguments) -> Arguments:
    grad_x = empty_result(args.x, args.per_channel)
    inputs = _in_order_of(grad_x, grad, args.x, args.residual)
    grad_residual = None if args.residual is None else torch.empty_like(grad_x, dtype=args.residual.dtype)
    layout = layout_of(grad_x, args)
    tiling = tiling_of(layout, BACKWARD_TILE)
    rows = [name for name in STORED if getattr(args, name) is not None]
    partials = args.lambda_.new_empty(layout.images, tiling.spans, len(rows), layout.channels)
    tensors = *inputs, grad_x, grad_residual, partials
    _launch(backward_kernel, formula, args, layout, tiling, *tensors, ROWS=len(rows))
    sums = {name: partials[:, :, i].sum(1) for i, name in enumerate(rows)}  # no views: results must not share memory
    return Arguments(x=grad_x, residual=grad_residual, **reduce_sums(sums, args))


def _in_order_of(result: Tensor, *tensors: Tensor | None) -> list[Tensor | None]:
    return [t if t is None else in_order_of(result, t) for t in tensors]


def _launch(
    kernel, formula: str, args: Arguments, layout: Layout, tiling: Tiling, *tensors: Tensor | None, **constants: int
) -> None:
    """Starts the programs of ``tiling`` with ``tensors`` and the arguments that both kernels take."""
    programs = layout.images * tiling.blocks * tiling.spans
    if programs == 0:
        return
    per_plane = args.scale, args.shift, args.residual_scale
    parameters = [t if t is None else t.contiguous() for t in (args.lambda_, args.kappa, *per_plane)]
    steps = [0 if t is None or len(t) == 1 else layout.channels for t in per_plane]
    inner, outer = (layout.channels, layout.positions) if layout.channels_last else (layout.positions, layout.channels)
    unit = gcd(inner, MAX_LOAD)
    with torch.cuda.device_of(args.x):
        kernel[(programs,)](
            *tensors,
            *parameters,
            *steps,
            inner // unit,
            outer,
            *tiling[2:],  # blocks, spans, tiles
            FORMULA=formula,
            LAMBDA_PER_CHANNEL=args.lambda_.dim() > 0,
            KAPPA_PER_CHANNEL=args.kappa.dim() > 0,
            CHANNELS_LAST=layout.channels_last,
            UNIT=unit,
            BLOCK_C=tiling.block_c,
            BLOCK_S=tiling.block_s,
            num_warps=WARPS,
            **constants,
            **OPTIONS,
        )

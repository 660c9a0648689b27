"""Launches the Triton kernels: chooses tiles, starts the programs, adds up their sums."""

import functools
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from apa_mmdet.ops.memory_layout import (
    DIFFERENTIABLE,
    Arguments,
    Layout,
    compute_dtype,
    empty_result,
    in_order_of,
    layout_of,
)

from .triton_kernels import backward_kernel, forward_kernel
from .triton_sums import finish_kernel

WARPS = 4
# Elements of a tile: in half precision a load of 16 bytes a thread from each tensor. More make ptxas wait for the first
# before it starts the second, or cost the registers of programs that could run side by side.
TILE = 1024
# A tile of size S has S, S/16 or S/64 positions, side by side in memory, of 1, 16 or 64 channels. The last serves maps
# smaller than those of a detector's backbone, which needs 30 kernels for any size of image that way.
POSITION_PARTS = 1, 16, 64
CHANNEL_BLOCKS = 128, 64, 16  # of a tile in channels_last
MAX_LOAD = 8  # elements: 16 bytes in half precision; where the extent has no such factor, loads are of one element
# tiles of the second kernel of the backward pass, whose loads are all on their way before the first sum
FINISH_CHANNELS, FINISH_SPANS, FINISH_PROGRAMS = 32, 64, 2048
# A large GPU runs some 1,000 (backward) to 2,000 (forward) programs at a time. Where there are far more tiles, a
# program handles several: fewer programs would leave much of the GPU idle at the end, more would prepare parameters
# more often.
PROGRAMS = 4096
MAX_TILES = 16
MIN_TILES_CHANNELS_LAST = 4  # a program there prepares parameters, and stores sums, for up to 128 channels

# Triton 2 always fuses multiplications with additions and has no such option; later versions need it
OPTIONS = {} if triton.__version__.startswith('2.') else dict(enable_fp_fusion=True)


# a compiled kernel takes the arguments of a launch from there on
LAUNCHES_COMPILED = tuple(map(int, triton.__version__.split('.')[:2])) >= (3, 6)
_compiled: dict[tuple | None, Any] = {}


class Tiling(NamedTuple):
    """``blocks`` x ``spans`` programs for each image; a program handles ``tiles`` consecutive tiles."""

    block_c: int
    block_s: int
    blocks: int
    spans: int
    tiles: int


@functools.lru_cache(4096)
def tiling_of(layout: Layout, size: int) -> Tiling:
    """Returns the tiling by tiles of ``size`` elements, whose shape is one of a few: each is a kernel to compile."""
    if layout.channels_last:
        block_c = _block(layout.channels, CHANNEL_BLOCKS)
    else:
        shapes = [size] if layout.channels == 1 else [size // part for part in POSITION_PARTS]
        block_c = size // _block(layout.positions, shapes)
    block_s = size // block_c
    blocks, along = triton.cdiv(layout.channels, block_c), triton.cdiv(layout.positions, block_s)
    tiles = max(MIN_TILES_CHANNELS_LAST if layout.channels_last else 1, layout.images * blocks * along // PROGRAMS)
    tiles = max(1, min(tiles, MAX_TILES, along))
    return Tiling(block_c, block_s, blocks, triton.cdiv(along, tiles), tiles)


def _block(extent: int, sizes: Sequence[int]) -> int:
    """Returns the largest size that pads ``extent`` by at most 3 tenths, else the one that pads it least."""
    padded = {size: triton.cdiv(extent, size) * size for size in sizes}
    return next((size for size in sizes if 10 * padded[size] <= 13 * extent), min(sizes, key=padded.__getitem__))


def tile_size(dtype: torch.dtype) -> int:
    """Returns the elements of a tile; in float64 half as many, which fit into registers."""
    return TILE // 2 if dtype == torch.float64 else TILE


def serves(x: Tensor) -> bool:
    return x.is_cuda and x.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64) and works(x.device)


@functools.cache
def works(device: torch.device) -> bool:
    """Whether Triton works on this device, with a warning if not: it needs a C compiler and a GPU it supports."""
    with torch._C._DisableFuncTorch():  # where it is in use, new tensors are wrappers without data
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


class Launch(NamedTuple):
    """A kernel, its number of programs, and its arguments: those of the signature in order, then constants by name."""

    kernel: Any
    programs: int
    x: Tensor  # on the device to launch it on
    values: tuple[Tensor | int | None, ...]
    constants: dict[str, Any]


def forward(formula: str, args: Arguments) -> Tensor:
    out, launches = describe_forward(formula, args)
    for launch in launches:
        start(launch)
    return out


def describe_forward(formula: str, args: Arguments) -> tuple[Tensor, list[Launch]]:
    """Returns the tensor of the result and the launch that fills it; none if it has no elements."""
    out = empty_result(args.x, args.per_channel)
    layout = layout_of(out, args)
    x, residual = _in_order_of(out, args.x, args.residual)
    tiling = tiling_of(layout, tile_size(args.x.dtype))
    return out, _launch(forward_kernel, formula, args, layout, tiling, x, residual, out)


def backward(formula: str, grad: Tensor, args: Arguments, needed: Sequence[bool]) -> list[Tensor | None]:
    results, launches = describe_backward(formula, grad, args, needed)
    for launch in launches:
        start(launch)
    for name in ('lambda_', 'kappa'):  # one value beside one per channel
        result, shape = results.get(name), getattr(args, name).shape
        if result is not None and result.shape != shape:
            results[name] = result.sum().reshape(shape)
    return [results.get(name) for name in DIFFERENTIABLE]


def describe_backward(
    formula: str, grad: Tensor, args: Arguments, needed: Sequence[bool]
) -> tuple[dict[str, Tensor | None], list[Launch]]:
    """Returns the tensors of the gradients by name, and the two launches that fill them; none without elements.

    The gradient to λ or κ is one per channel where the other is.
    """
    grad_x = empty_result(args.x, args.per_channel)
    inputs = _in_order_of(grad_x, grad, args.x, args.residual)
    grad_residual = None if args.residual is None else torch.empty_like(grad_x, dtype=args.residual.dtype)
    layout = layout_of(grad_x, args)
    tiling = tiling_of(layout, tile_size(args.x.dtype))
    programs = layout.images * tiling.blocks * tiling.spans
    curve_per_channel = args.curve_per_channel
    residual_affine = args.residual_affine
    affine = args.affine or residual_affine
    rows = 2 * curve_per_channel + 2 * affine + residual_affine
    dtype, device = compute_dtype(args.x.dtype), args.x.device
    shape = layout.images, tiling.spans, rows, layout.channels
    partials = torch.empty(shape, dtype=dtype, device=device) if rows else None
    curve = None if curve_per_channel else torch.empty((programs, 2), dtype=dtype, device=device)
    tensors = *inputs, grad_x, grad_residual, partials, curve
    launches = _launch(backward_kernel, formula, args, layout, tiling, *tensors, ROWS=rows)
    results = dict(x=grad_x, residual=grad_residual)
    for name, wanted in zip(DIFFERENTIABLE, needed):
        tensor = getattr(args, name)
        if name not in results and tensor is not None and wanted:
            single = name in ('lambda_', 'kappa') and curve_per_channel and tensor.numel() == 1
            size = layout.channels if single else tensor.shape
            results[name] = (torch.empty if programs else torch.zeros)(size, dtype=tensor.dtype, device=device)
    if programs:
        launches.append(_finish(args, partials, curve, results, layout, tiling.spans, rows))
    return results, launches


def _finish(
    args: Arguments,
    partials: Tensor | None,
    curve: Tensor | None,
    results: dict[str, Tensor | None],
    layout: Layout,
    spans: int,
    rows: int,
) -> Launch:
    """Adds up the sums of the backward kernel to the gradients to parameters and gate, in one launch."""
    blocks = 0 if partials is None else triton.cdiv(layout.channels, FINISH_CHANNELS)
    parameters = args.lambda_, *args.norm, args.gate, args.residual_mean, args.residual_var
    names = 'lambda_', 'kappa', 'weight', 'bias', 'gate', 'residual_weight', 'residual_bias'
    values = (
        partials,
        curve,
        *[t if t is None else t.contiguous() for t in parameters],
        *[results.get(name) for name in names],
        layout.images,
        spans,
        layout.channels,
        0 if curve is None else len(curve),
    )
    constants = dict(
        CURVE_PER_CHANNEL=curve is None,
        ROWS=rows,
        BLOCK_R=FINISH_SPANS,
        BLOCK_C=FINISH_CHANNELS,
        BLOCK=FINISH_PROGRAMS,
        **_constants(args),
    )
    return Launch(finish_kernel, blocks + (curve is not None), args.x, values, constants)


def _in_order_of(result: Tensor, *tensors: Tensor | None) -> list[Tensor | None]:
    return [t if t is None else in_order_of(result, t) for t in tensors]


def _launch(
    kernel, formula: str, args: Arguments, layout: Layout, tiling: Tiling, *tensors: Tensor | None, **constants: Any
) -> list[Launch]:
    """Returns the launch of ``tiling`` with ``tensors`` and what both kernels take; none without programs."""
    programs = layout.images * tiling.blocks * tiling.spans
    if programs == 0:
        return []
    parameters = args.lambda_, args.kappa, *args.norm, args.gate, *args.residual_norm
    inner, outer = (layout.channels, layout.positions) if layout.channels_last else (layout.positions, layout.channels)
    unit = MAX_LOAD if inner % MAX_LOAD == 0 else 1
    values = (
        *tensors,
        *[t if t is None else t.contiguous() for t in parameters],
        inner // unit,
        outer,
        *tiling[2:],  # blocks, spans, tiles
    )
    constants.update(
        FORMULA=formula,
        HALF=args.x.dtype.itemsize == 2,
        KAPPA_PER_CHANNEL=args.kappa.numel() != 1,
        CHANNELS_LAST=layout.channels_last,
        UNIT=unit,
        BLOCK_C=tiling.block_c,
        BLOCK_S=tiling.block_s,
        **OPTIONS,
        **_constants(args),
    )
    return [Launch(kernel, programs, args.x, values, constants)]


def _constants(args: Arguments) -> dict[str, Any]:
    """Those that all kernels take."""
    residual_affine = args.residual_affine
    return dict(
        LAMBDA_PER_CHANNEL=args.lambda_.numel() != 1,
        AFFINE=residual_affine or args.affine,
        RESIDUAL_AFFINE=residual_affine,
        EPS=args.eps,
        RESIDUAL_EPS=args.residual_eps,
        num_warps=WARPS,
    )


def start(launch: Launch) -> Any:
    """Launches a kernel: the one place where that is done.

    Triton finds the compiled kernel of a call by all of its arguments, in more time than the launch takes. What it
    found is kept by what tells such kernels apart, and launched without the search. Returns what is kept, else None.
    """
    kernel, programs, x, values, constants = launch
    kinds = _kinds(values)
    key = None if kinds is None else (id(kernel), x.get_device(), *constants.items(), *kinds)
    with torch.cuda.device_of(x):
        compiled = _compiled.get(key)
        if compiled is not None:
            constexprs = [constants[name] for name in kernel.arg_names[len(values) :]]
            compiled[(programs, 1, 1)](*values, *constexprs)
            return compiled
        compiled = kernel[(programs,)](*values, **constants)
    if not LAUNCHES_COMPILED or compiled is None or key is None:
        return None
    _compiled[key] = compiled
    return compiled


def _kinds(values: Sequence[Tensor | int | None]) -> list[torch.dtype | None] | None:
    """What of these values Triton compiles a kernel for: dtypes, and which are None.

    Returns None where it also asks for more: a pointer that is no multiple of 16 bytes, a number beyond 32 bits.
    """
    kinds: list[torch.dtype | None] = []
    for value in values:
        if isinstance(value, Tensor):
            if value.data_ptr() % 16:
                return None
            kinds.append(value.dtype)
        elif value is None:
            kinds.append(None)
        elif value >= 2**31:
            return None
    return kinds

"""Measures time, memory and bandwidth of the activations beside PyTorch's own.

    python benchmarks/activations.py                  # the sites of an SE-R50 on two images of 800x1333
    python benchmarks/activations.py --check          # first compare the values with 60-digit arithmetic
    python benchmarks/activations.py --shapes 4x256x80x96 --rounds 100 --keep-memory
    python benchmarks/activations.py --types APALU GELU       # only these registered ones beside SiLU and ReLU
    python benchmarks/activations.py --types                  # every learnable activation

Needs torch alone, but matplotlib for a figure and MMDetection for --types. Each row is a contender at one shape and
dtype; measure.py explains how time and memory are counted. The forward is that of training: it keeps what the backward
needs. SiLU of the same shape and dtype is 1 in the ratios.

Predicted bytes are those that the kernels must read and write: one pass over the tensor each for input, result and
gradients. They include every kernel of a contender, and are missing where the number of kernels is not known. Divided
by the time, those of the forward give the bandwidth; the share is relative to ``y.copy_(x)``, timed in the same rounds.
On a GPU ``host_ms`` is the time of the host to queue forward and backward; up to 2 ms, no other time contains it.
"""

import argparse
import contextlib
import itertools
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import measure
import memory
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apa_mmdet import ops
from apa_mmdet.ops import reference

# SE-R50 at 800x1333: the stem and stages 1 to 4; last a tensor of no such network, that of the project's goal
SITES = (
    *('64x400x667', '64x200x334', '256x200x334', '128x100x167', '512x100x167', '256x50x84', '1024x50x84'),
    *('512x25x42', '2048x25x42', '4x256x80x96'),
)
COMPILED = 'textbook aglu, compiled'
EPS = 1e-5  # of batch norm
TRUTH = measure.ROOT / 'tests/data/apa_truth.npz'
# error / max(1, |truth|), in half precision the distance from the rounded truth in units in the last place
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1, torch.float16: 1}


class Contender(NamedTuple):
    """``function(*inputs)``, differentiated in all of its inputs; ``constants``: other tensors that it uses.

    passes: how often it reads or writes the whole tensor, forward and backward, where that is known.
    """

    backend: str
    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    passes: tuple[int, int] | None = None
    constants: tuple[Tensor, ...] = ()


def norm_relu(mean, var, z, weight, bias):
    return F.relu(F.batch_norm(z, mean, var, weight, bias, eps=EPS), inplace=True)


def norm_aglu(mean, var, z, weight, bias, lambda_, kappa):
    return ops.aglu(z, lambda_, kappa, ops.Norm(mean, var, weight, bias, EPS))


def block_end_relu(mean, var, z, residual, gate, weight, bias):
    gated = F.batch_norm(z, mean, var, weight, bias, eps=EPS) * gate[:, :, None, None]
    return F.relu(gated + residual, inplace=True)


def block_end_aglu(mean, var, z, residual, gate, weight, bias, lambda_, kappa):
    return ops.aglu(z, lambda_, kappa, ops.Norm(mean, var, weight, bias, EPS), gate, residual)


def contenders(z: Tensor) -> dict[str, Contender]:
    """Returns the standard list, with parameters in the ranges that training gives them."""

    def uniform(low: float, high: float, *size: int) -> nn.Parameter:
        return nn.Parameter(torch.empty(size, device=z.device).uniform_(low, high))

    images, channels = z.shape[:2]
    scalars, per_channel = ((uniform(0.2, 0.8, n), uniform(1.0, 1.3, n)) for n in (1, channels))
    lines = uniform(0.5, 1.5, channels), uniform(-0.5, 0.5, channels)
    acon, meta_acon = (*lines, uniform(0.5, 1.5, channels)), (*lines, uniform(0.2, 0.8, images, channels))
    apalu = uniform(0.4, 0.6, channels), uniform(0.6, 0.9, channels)
    affine = uniform(0.5, 1.5, channels), uniform(-0.1, 0.1, channels)
    norm = uniform(-0.1, 0.1, channels).detach(), uniform(0.5, 1.5, channels).detach()
    gate = uniform(0.2, 0.8, images, channels).detach().to(z.dtype).requires_grad_()
    end = z, torch.randn_like(z).requires_grad_(), gate, *affine
    ours, *others = measure.serving(z)
    # passes of those in several kernels: batch norm 2 and 3, ReLU 2 and 3, the sum 3 and none, the gate 2 and 6, of
    # which 4 are the product that its own gradient is the sum of
    return {
        'SiLU': Contender('torch', F.silu, (z,), (2, 3)),
        'ReLU': Contender('torch', F.relu, (z,), (2, 3)),
        'sigmoid': Contender('torch', torch.sigmoid, (z,), (2, 3)),
        'aglu': Contender(ours, ops.aglu, (z, *scalars), (2, 3)),
        'aglu per channel': Contender(ours, ops.aglu, (z, *per_channel), (2, 3)),
        'apa': Contender(ours, ops.apa, (z, *scalars), (2, 3)),
        'acon per channel': Contender('torch', ops.acon, (z, *acon)),
        'acon, β per image': Contender('torch', ops.acon, (z, *meta_acon)),
        'apalu per channel': Contender('torch', ops.apalu, (z, *apalu)),
        **{f'aglu [{backend}]': Contender(backend, ops.aglu, (z, *scalars)) for backend in others},
        'textbook aglu': Contender('autograd', reference.aglu, (z, *scalars)),
        COMPILED: Contender('inductor', reference.aglu, (z, *scalars)),
        'batch norm, ReLU': Contender('torch', partial(norm_relu, *norm), (z, *affine), (4, 6), norm),
        'batch norm, aglu': Contender(ours, partial(norm_aglu, *norm), (z, *affine, *scalars), (2, 3), norm),
        **{
            f'batch norm, aglu [{backend}]': Contender(
                backend, partial(norm_aglu, *norm), (z, *affine, *scalars), (2, 3), norm
            )
            for backend in others
            if backend.startswith('triton')
        },
        'norm, gate, sum, ReLU': Contender('torch', partial(block_end_relu, *norm), end, (9, 12), norm),
        'norm, gate, sum, aglu': Contender(ours, partial(block_end_aglu, *norm), (*end, *scalars), (3, 5), norm),
    }


def registered(types: Sequence[str], z: Tensor) -> dict[str, Contender]:
    """Returns PyTorch's own SiLU and ReLU, and ``types``."""
    sites = {name: at_site(name, z) for name in dict.fromkeys(('SiLU', 'ReLU', *types))}
    return {
        name: Contender('torch', lambda z, *_, act=act: act(z), (z, *act.parameters())) for name, act in sites.items()
    }


def at_site(name: str, z: Tensor) -> nn.Module:
    """Builds a registered activation from its name, for the input ``z``."""
    from apa_mmdet.models.activations import build_activation  # needs MMDetection, the rest does not

    act = build_activation(dict(type=name), z.shape[1]).to(z.device)
    act.inplace = False  # z is a leaf
    return act


def steps(contender: Contender, compile_s: list[float] | None = None) -> dict[str, Callable]:
    """Returns forward, and forward with backward, as calls; the contender's backend computes both.

    ``compile_s``: compile the function; the seconds that it took are appended.
    """
    function, inputs = contender.function, contender.inputs
    if compile_s is not None:
        torch._dynamo.reset()  # a new shape would else be compiled for any shape, and after eight not at all
        function, start = torch.compile(function, fullgraph=True, dynamic=False), time.perf_counter()
        torch.autograd.grad(function(*inputs).sum(), inputs)
        compile_s.append(time.perf_counter() - start)
    ours = contender.backend in ops.backends()
    chosen = partial(ops.use_backend, contender.backend) if ours else contextlib.nullcontext

    def forward() -> Tensor:
        with chosen():
            return function(*inputs)

    gradient = torch.randn_like(forward())

    def forward_backward() -> tuple[Tensor, ...]:
        with chosen():
            return torch.autograd.grad(function(*inputs), inputs, gradient)

    return dict(forward=forward, forward_backward=forward_backward)


def measure_shape(table: measure.Table, sizes: Sequence[int], dtype: str, args: argparse.Namespace) -> None:
    """Adds a row for each contender."""
    memory_format = torch.channels_last if args.memory_format == 'channels_last' else torch.contiguous_format
    z = torch.randn(sizes, device=args.device).to(getattr(torch, dtype), memory_format=memory_format).requires_grad_()
    chosen = registered(args.types, z) if args.types else contenders(z)
    if not args.compile:
        chosen.pop(COMPILED, None)
    compile_s = []
    calls, notes = measure.prepare(
        {name: partial(steps, one, compile_s if name == COMPILED else None) for name, one in chosen.items()}
    )
    calls['copy', ''] = partial(torch.empty_like(z).detach().copy_, z.detach())
    samples = measure.round_robin(calls, args.rounds, args.device, hold=True)
    whole = z.numel() * z.element_size()
    copy_gb_s = 2 * whole / 1e6 / measure.milliseconds(samples['copy', ''])['ms']
    for name, contender in chosen.items():
        row = dict(name=name, backend=contender.backend, device=args.device, dtype=dtype)
        row |= dict(shape=measure.shape_text(sizes), memory_format=args.memory_format, note=notes.get(name, ''))
        if name not in notes:
            forward, forward_backward = (calls[name, step] for step in measure.STEPS)
            row |= measure.times(samples, name, 'SiLU', 'to_silu')
            parameters = [tensor for tensor in contender.inputs if isinstance(tensor, nn.Parameter)]
            row['saved_bytes'] = memory.saved_bytes(forward, [*parameters, *contender.constants])
            row['peak_bytes'] = memory.memory_of(forward_backward, args.device).peak
            result = str(forward().dtype).removeprefix('torch.')
            row |= dict(copy_gb_s=copy_gb_s, note='' if result == dtype else f'the result is {result}')
            if contender.passes:
                predicted = [passes * whole for passes in contender.passes]
                gb_s = predicted[0] / 1e6 / row['forward_ms']
                row |= dict(predicted_forward_bytes=predicted[0], predicted_backward_bytes=predicted[1])
                row |= dict(forward_gb_s=gb_s, share_of_copy=gb_s / copy_gb_s)
            if name == COMPILED:
                row['compile_s'] = compile_s[0]
            if args.device == 'cuda':
                row['host_ms'] = statistics.median(sample.host for sample in samples[name, 'forward_backward'])
        table.add(**row)


# Comparison with 60-digit arithmetic


def check(device: str) -> list[str]:
    """Compares every backend with 60-digit arithmetic, prints the worst error of each column, returns wrong ones."""
    import numpy as np

    with np.load(TRUTH) as stored:
        truth = dict(zip(stored['columns'].tolist(), torch.from_numpy(stored['rows']).T.contiguous()))
    wrong = []
    for dtype in TOLERANCE:
        for backend in measure.serving(torch.empty(1, dtype=dtype, device=device)):
            for name in ('apa', 'aglu'):
                wrong += check_columns(name, truth, dtype, device, backend)
    return wrong


def check_columns(name: str, truth: dict[str, Tensor], dtype: torch.dtype, device: str, backend: str) -> list[str]:
    columns = (name, f'd{name}_dz', f'd{name}_dlam', f'd{name}_dkappa')
    z, lambda_, kappa, *wanted = (truth[column] for column in ('z', 'lam', 'kappa', *columns))
    if dtype.itemsize == 2:  # exact for the rounded z, computed in float64, which was checked before
        z, kappa = z.to(dtype).double(), kappa.float().double()
        lambda_ = lambda_.float().double().clamp(min=ops.LAMBDA_FLOOR)  # the floor in float32 is just below it
        wanted = value_and_derivatives(name, 'analytic', z, lambda_, kappa)
    parameter_dtype = dtype if dtype == torch.float64 else torch.float32
    inputs = z.to(device, dtype), lambda_.to(device, parameter_dtype), kappa.to(device, parameter_dtype)
    wrong = []
    for column, got, want in zip(columns, value_and_derivatives(name, backend, *inputs), wanted):
        worst, limit = worst_error(got.cpu(), want), TOLERANCE[got.dtype]
        text = f'{worst:8.1e} {"ulp" if got.dtype.itemsize == 2 else "   "}'
        if not worst <= limit:
            text += f'  FAILED, more than {limit:g}'
            wrong.append(f'{column} by {backend} in {str(dtype)[6:]}, {worst:.2g}')
        print(f'  {backend:<10} {str(dtype)[6:]:<9} {column:<12} {text}', flush=True)
    return wrong


def value_and_derivatives(name: str, backend: str, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Computes every row as a channel with its own λ and κ; twice, as Python helps C++ with the first of a kind."""
    z, *parameters = inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    with ops.use_backend(backend):
        for _ in range(2):
            out = getattr(ops, name)(z[None], *parameters)[0]
            gradients = torch.autograd.grad(out, inputs, torch.ones_like(out))
    return (out.detach(), *gradients)


def worst_error(got: Tensor, want: Tensor) -> float:
    """Returns the largest error / max(1, |exact value|); in half precision, the steps from the rounded exact value.

    There, errors that float32 may have do not count: near zero, half-precision numbers are closer together than that.
    """
    if not got.isfinite().all():
        return math.inf
    error = (got.double() - want).abs() / want.abs().clamp(min=1)
    if got.dtype.itemsize > 2:
        return error.max().item()
    distance = (steps_from_zero(got) - steps_from_zero(want.to(got.dtype))).abs()
    return distance.where(error > TOLERANCE[torch.float32], 0).max().item()


def steps_from_zero(half: Tensor) -> Tensor:
    """Returns how many numbers of the dtype are between zero and each number, negative below zero."""
    bits = half.view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


# Command line


def parse_args() -> argparse.Namespace:
    parser = measure.parser_of(__doc__, rounds=30)
    sites = [measure.shape(text) for text in SITES]
    text = 'N is 2 where it is missing; default: the sites of SE-R50, and 4x256x80x96'
    parser.add_argument('--shapes', nargs='+', type=measure.shape, default=sites, metavar='[N]xCxHxW', help=text)
    text = 'default: float32; on a GPU all three'
    parser.add_argument('--dtypes', nargs='+', choices=measure.DTYPES, help=text)
    text = 'registered activations to measure instead of the list; without a name, every learnable one'
    parser.add_argument('--types', nargs='*', metavar='TYPE', help=text)
    layout = dict(dest='memory_format', action='store_const', const='channels_last', default='contiguous')
    parser.add_argument('--channels-last', **layout, help='tensors in that memory format')
    parser.add_argument('--no-compile', dest='compile', action='store_false', help='skip torch.compile')
    text = 'first compare with the 60-digit values of tests/data (needs numpy); where they differ, fail in the end'
    parser.add_argument('--check', action='store_true', help=text)
    args = parser.parse_args()
    args.dtypes = args.dtypes or (measure.DTYPES if args.device == 'cuda' else ['float32'])
    args.shapes = [(2, *sizes) if len(sizes) == 3 else sizes for sizes in args.shapes]
    if any(len(sizes) != 4 for sizes in args.shapes):
        parser.error('a shape has three sizes, CxHxW, or four, NxCxHxW')
    if args.types == []:
        from apa_mmdet.models.activations import learnable_activations  # needs MMDetection, the rest does not

        args.types = list(learnable_activations())
    for name in args.types or ():
        try:
            at_site(name, torch.zeros(1, 1))(torch.zeros(1, 1))
        except Exception as error:  # not registered, not an activation, or MMDetection is missing
            parser.error(f'--types {name}: {measure.reason(error)}')
    return args


def main() -> None:
    args = parse_args()
    shown = 'name dtype shape forward_ms forward_backward_ms forward_backward_to_silu saved_bytes share_of_copy note'
    suffix = '_channels_last' * (args.memory_format == 'channels_last')
    table = measure.begin(args, 'activations', shown, suffix)
    wrong = '; '.join(check(args.device)) if args.check else ''
    if wrong:
        table.described['wrong values'] = wrong
    torch.manual_seed(0)
    panels = {
        'forward': 'forward_ms',
        'forward + backward': 'forward_backward_ms',
        'kept for backward': 'saved_bytes',
        'extra memory at the peak': 'peak_bytes',
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ['TORCHINDUCTOR_CACHE_DIR'] = folder  # the cache of an earlier run would shorten compile_s
        for sizes, dtype in itertools.product(args.shapes, args.dtypes):
            measure_shape(table, sizes, dtype, args)
            measure.draw_ratios(table, 'SiLU', panels, series=('dtype',), over='shape')
    if wrong:
        sys.exit(f'WRONG VALUES on this device, beyond what the check allows: {wrong}')


if __name__ == '__main__':
    main()

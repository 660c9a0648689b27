"""Measures time, memory and bandwidth of the activations beside PyTorch's own.

    python benchmarks/activations.py                  # the sites of an SE-R50 on two images of 800x1333
    python benchmarks/activations.py --check          # first verify the values against 60-digit arithmetic
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
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import measure
import memory
import torch
import torch.nn.functional as F
from bar_chart import Panel, draw_bars
from check import check, serving
from torch import Tensor, nn

from apa_mmdet import ops
from apa_mmdet.ops import reference

# SE-R50 at 800x1333: the stem and stages 1 to 4; last a tensor of no such network, that of the project's goal
SITES = (
    '64x400x667',
    '64x200x334',
    '256x200x334',
    '128x100x167',
    '512x100x167',
    '256x50x84',
    '1024x50x84',
    '512x25x42',
    '2048x25x42',
    '4x256x80x96',
)
DTYPES = dict(float32=torch.float32, bfloat16=torch.bfloat16, float16=torch.float16)
COLUMNS = (
    'name',
    'backend',
    'device',
    'dtype',
    'shape',
    'memory_format',
    *measure.time_columns('silu'),
    'saved_bytes',
    'peak_bytes',
    'predicted_forward_bytes',
    'predicted_backward_bytes',
    'forward_gb_s',
    'copy_gb_s',
    'share_of_copy',
    'compile_s',
    'host_ms',
    'note',
)
COMPILED = 'textbook aglu, compiled'
FIRST_OF_A_GROUP = ('batch norm, ReLU', 'norm, gate, sum, ReLU')
EPS = 1e-5  # of batch norm


class Contender(NamedTuple):
    """``function(*inputs)``, differentiated in all of its inputs.

    passes: how often it reads or writes the whole tensor, forward and backward, where that is known.
    """

    name: str
    backend: str
    function: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]
    passes: tuple[int | None, int | None]
    compile_s: float | None = None


class Data(NamedTuple):
    """The inputs of the contenders of one shape.

    ``affine`` and ``statistics`` belong to the batch norm, ``scalars`` and ``per_channel`` are λ and κ, the others the
    parameters of those activations, one per channel (Meta-ACON's β: one per image and channel).
    """

    z: Tensor
    residual: Tensor
    gate: Tensor
    affine: tuple[Tensor, Tensor]
    statistics: tuple[Tensor, Tensor]
    scalars: tuple[Tensor, Tensor]
    per_channel: tuple[Tensor, Tensor]
    acon: tuple[Tensor, Tensor, Tensor]
    meta_acon: tuple[Tensor, Tensor, Tensor]
    apalu: tuple[Tensor, Tensor]

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return tuple(tensor for group in self[3:] for tensor in group)


def draw(shape: Sequence[int], dtype: torch.dtype, device: torch.device, memory_format: torch.memory_format) -> Data:
    """Draws normal random numbers, and parameters in the ranges that training gives them."""

    def normal() -> Tensor:
        drawn = torch.randn(shape, device=device).to(dtype=dtype, memory_format=memory_format)
        return drawn.requires_grad_()

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return torch.empty(size, device=device).uniform_(low, high).requires_grad_()

    channels = shape[1]
    gate = uniform(0.2, 0.8, *shape[:2]).detach().to(dtype).requires_grad_()
    lines = uniform(0.5, 1.5, channels), uniform(-0.5, 0.5, channels)
    return Data(
        normal(),
        normal(),
        gate,
        (uniform(0.5, 1.5, channels), uniform(-0.1, 0.1, channels)),
        (uniform(-0.1, 0.1, channels).detach(), uniform(0.5, 1.5, channels).detach()),
        (uniform(0.2, 0.8, 1), uniform(1.0, 1.3, 1)),
        (uniform(0.2, 0.8, channels), uniform(1.0, 1.3, channels)),
        (*lines, uniform(0.5, 1.5, channels)),
        (*lines, uniform(0.2, 0.8, *shape[:2])),
        (uniform(0.4, 0.6, channels), uniform(0.6, 0.9, channels)),
    )


def folded(weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
    """Returns scale and shift of a batch norm in eval mode."""
    scale = (var + EPS).rsqrt() * weight
    return scale, bias - mean * scale


def norm_relu(z, weight, bias, mean, var):
    return F.relu(F.batch_norm(z, mean, var, weight, bias, eps=EPS), inplace=True)


def norm_aglu(z, weight, bias, lambda_, kappa, mean, var):
    return ops.aglu(z, lambda_, kappa, *folded(weight, bias, mean, var))


def block_end_relu(z, residual, gate, weight, bias, mean, var):
    gated = F.batch_norm(z, mean, var, weight, bias, eps=EPS) * gate[:, :, None, None]
    return F.relu(gated + residual, inplace=True)


def block_end_aglu(z, residual, gate, weight, bias, lambda_, kappa, mean, var):
    scale, shift = folded(weight, bias, mean, var)
    return ops.aglu(z, lambda_, kappa, scale * gate, shift * gate, residual)


def contenders(data: Data) -> list[Contender]:
    mean, var = data.statistics
    ours, *others = serving(data.z)
    z, plain = (data.z,), (data.z, *data.scalars)
    after_norm, end = (data.z, *data.affine), (data.z, data.residual, data.gate, *data.affine)
    # passes of those in several kernels: batch norm 2 and 3, ReLU 2 and 3, the sum 3 and none, the gate 2 and 6, of
    # which 4 are the product that its own gradient is the sum of
    return [
        Contender('SiLU', 'torch', F.silu, z, (2, 3)),
        Contender('ReLU', 'torch', F.relu, z, (2, 3)),
        Contender('sigmoid', 'torch', torch.sigmoid, z, (2, 3)),
        Contender('aglu', ours, ops.aglu, plain, (2, 3)),
        Contender('aglu per channel', ours, ops.aglu, (data.z, *data.per_channel), (2, 3)),
        Contender('apa', ours, ops.apa, plain, (2, 3)),
        Contender('acon per channel', 'torch', ops.acon, (data.z, *data.acon), (None, None)),
        Contender('acon, β per image', 'torch', ops.acon, (data.z, *data.meta_acon), (None, None)),
        Contender('apalu per channel', 'torch', ops.apalu, (data.z, *data.apalu), (None, None)),
        *(Contender(f'aglu [{name}]', name, ops.aglu, plain, (None, None)) for name in others),
        Contender('textbook aglu', 'autograd', reference.aglu, plain, (None, None)),
        Contender(COMPILED, 'inductor', reference.aglu, plain, (None, None)),
        Contender('batch norm, ReLU', 'torch', partial(norm_relu, mean=mean, var=var), after_norm, (4, 6)),
        Contender(
            'batch norm, aglu', ours, partial(norm_aglu, mean=mean, var=var), (*after_norm, *data.scalars), (2, 3)
        ),
        Contender('norm, gate, sum, ReLU', 'torch', partial(block_end_relu, mean=mean, var=var), end, (9, 12)),
        Contender(
            'norm, gate, sum, aglu', ours, partial(block_end_aglu, mean=mean, var=var), (*end, *data.scalars), (3, 5)
        ),
    ]


def registered(types: Sequence[str], data: Data) -> list[Contender]:
    """Returns PyTorch's own SiLU and ReLU, and ``types``."""
    sites = {name: at_site(name, data.z) for name in dict.fromkeys(('SiLU', 'ReLU', *types))}
    return [
        Contender(name, 'torch', lambda z, *_, act=act: act(z), (data.z, *act.parameters()), (None, None))
        for name, act in sites.items()
    ]


def at_site(name: str, z: Tensor) -> nn.Module:
    """Builds a registered activation from its name, for the input ``z``."""
    from apa_mmdet.models.activations import build_activation  # needs MMDetection, the rest does not

    act = build_activation(dict(type=name), z.shape[1]).to(z.device)
    act.inplace = False  # z is a leaf
    return act


def compiled(contender: Contender) -> Contender:
    """Compile its function, forward and backward, for its inputs."""
    torch._dynamo.reset()  # a new shape would else be compiled for any shape, and after eight not at all
    function = torch.compile(contender.function, fullgraph=True, dynamic=False)
    start = time.perf_counter()
    out = function(*contender.inputs)
    torch.autograd.grad(out, contender.inputs, torch.randn_like(out))
    return contender._replace(function=function, compile_s=time.perf_counter() - start)


def steps(contender: Contender) -> dict[str, Callable]:
    """Forward, and forward with backward, as calls without arguments; the contender's backend computes both."""
    ours = contender.backend in ops.backends()
    chosen = partial(ops.use_backend, contender.backend) if ours else contextlib.nullcontext

    def forward() -> Tensor:
        with chosen():
            return contender.function(*contender.inputs)

    gradient = torch.randn_like(forward())

    def forward_backward() -> tuple[Tensor, ...]:
        with chosen():
            return torch.autograd.grad(contender.function(*contender.inputs), contender.inputs, gradient)

    return dict(forward=forward, forward_backward=forward_backward)


def prepared(
    entrants: Sequence[Contender], args: argparse.Namespace
) -> Iterator[tuple[Contender, dict[str, Callable], str]]:
    """Every contender with its steps, warm; without steps, and with the reason, where it cannot run here."""
    for contender in entrants:
        if contender.name == COMPILED and not args.compile:
            continue
        try:
            contender = compiled(contender) if contender.name == COMPILED else contender
            calls = steps(contender)
            for _ in range(3):
                for call in calls.values():
                    call()
        except Exception as error:  # out of memory, a compiler that is not there or fails: the others go on
            yield contender, {}, measure.reason(error)
        else:
            yield contender, calls, ''


def measure_shape(
    table: measure.Table,
    sizes: Sequence[int],
    dtype: torch.dtype,
    args: argparse.Namespace,
    clock: measure.Clock,
    choose: Callable[[Data], list[Contender]] = contenders,
) -> None:
    """One row for each contender that ``choose`` gives."""
    memory_format = torch.channels_last if args.channels_last else torch.contiguous_format
    data = draw(sizes, dtype, args.device, memory_format)
    entrants = list(prepared(choose(data), args))
    calls = {(contender.name, step): call for contender, steps_, _ in entrants for step, call in steps_.items()}
    target = torch.empty_like(data.z).detach()
    calls['copy', ''] = partial(target.copy_, data.z.detach())
    samples = measure.round_robin(calls, args.rounds, clock)
    whole = data.z.numel() * data.z.element_size()
    copy_gb_s = 2 * whole / 1e9 / measure.spread(sample.device for sample in samples['copy', '']).median
    for contender, steps_, failure in entrants:
        row = dict(
            name=contender.name,
            backend=contender.backend,
            device=args.device.type,
            dtype=measure.name_of(dtype),
            shape=measure.shape_text(sizes),
            memory_format=measure.name_of(memory_format),
            compile_s=contender.compile_s,
            copy_gb_s=copy_gb_s,
            note=failure,
        )
        if steps_:
            row.update(measure.times(samples, contender.name, 'silu', 'SiLU'))
            row.update(memory_columns(contender, steps_, data, args.device))
            row.update(bandwidth(contender, whole, row['forward_ms'] / 1e3, copy_gb_s))
            if args.device.type == 'cuda':
                queued = measure.spread(sample.host for sample in samples[contender.name, 'forward_backward'])
                row['host_ms'] = queued.median * 1e3
        table.add(**row)
        report(row)


def memory_columns(
    contender: Contender, calls: dict[str, Callable], data: Data, device: torch.device
) -> dict[str, object]:
    dtype = calls['forward']().dtype
    parameters = [*data.parameters, *(t for t in contender.inputs if isinstance(t, nn.Parameter))]
    return dict(
        saved_bytes=memory.saved_bytes(calls['forward'], parameters),
        peak_bytes=memory.memory_of(calls['forward_backward'], device).peak,
        note='' if dtype == data.z.dtype else f'the result is {measure.name_of(dtype)}',
    )


def bandwidth(contender: Contender, whole: int, seconds: float, copy_gb_s: float) -> dict[str, float]:
    forward, backward = contender.passes
    if forward is None:
        return {}
    gb_s = forward * whole / 1e9 / seconds
    return dict(
        predicted_forward_bytes=forward * whole,
        predicted_backward_bytes=backward * whole,
        forward_gb_s=gb_s,
        share_of_copy=gb_s / copy_gb_s,
    )


def report(row: dict) -> None:
    if 'forward_to_silu' not in row:
        print(f'  {row["name"]:<24} {row["note"]}', flush=True)
        return
    share = f'{row["share_of_copy"]:4.0%} of copy' if 'share_of_copy' in row else ''
    print(
        f'  {row["name"]:<24}{row["forward_ms"]:9.3f} ms ={row["forward_to_silu"]:6.2f} SiLU,  with backward'
        f'{row["forward_backward_ms"]:9.3f} ms ={row["forward_backward_to_silu"]:6.2f} SiLU,  saved'
        f'{row["saved_bytes"] / measure.MIB:7.1f} MiB  {share}',
        flush=True,
    )


# Figure


def draw_figure(table: measure.Table, device: torch.device, date: str) -> None:
    rows = [row for row in table.rows if 'forward_to_silu' in row]
    if not rows:
        return
    names, dtypes, shapes = (list(dict.fromkeys(row[key] for row in rows)) for key in ('name', 'dtype', 'shape'))
    labels = [label for name in names for label in (['', name] if name in FIRST_OF_A_GROUP else [name])]
    silu = {(row['dtype'], row['shape']): row for row in rows if row['name'] == 'SiLU'}
    columns = {
        'forward': 'forward_ms',
        'forward + backward': 'forward_backward_ms',
        'kept for backward': 'saved_bytes',
        'extra memory at the peak': 'peak_bytes',
    }
    span = f'median and range over {len(shapes)} shapes' if len(shapes) > 1 else shapes[0]
    title = (
        f'Time and memory relative to SiLU: {span}, {", ".join(dtypes)}, {rows[0]["memory_format"]}\n'
        f'{measure.hardware(device)}, torch {torch.__version__}, {date}'
    )
    draw_bars(
        table.path.with_suffix('.png'),
        title,
        labels,
        dtypes,
        [panel(title, column, rows, silu) for title, column in columns.items()],
    )


def panel(title: str, column: str, rows: Sequence[dict], silu: dict[tuple[str, str], dict]) -> Panel:
    found = {}
    for row in rows:
        ratio = row[column] / silu[row['dtype'], row['shape']][column]
        found.setdefault((row['name'], row['dtype']), []).append(ratio)
    return Panel(
        title,
        {key: measure.spread(values).median for key, values in found.items()},
        {key: (min(values), max(values)) for key, values in found.items() if len(values) > 1},
        reference=1.0,
    )


# Command line


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--shapes',
        nargs='+',
        type=measure.shape,
        default=[measure.shape(text) for text in SITES],
        metavar='[N]xCxHxW',
        help='default: the sites of SE-R50, and 4x256x80x96',
    )
    parser.add_argument(
        '--batch', type=measure.at_least(1), default=2, help='N where a shape has none (default: %(default)s)'
    )
    parser.add_argument('--dtypes', nargs='+', choices=DTYPES, help='default: float32; on a GPU all three')
    parser.add_argument(
        '--types',
        nargs='*',
        metavar='TYPE',
        help='registered activations to measure instead of the list; without a name, every learnable one',
    )
    parser.add_argument('--channels-last', action='store_true', help='tensors in that memory format')
    parser.add_argument('--no-compile', dest='compile', action='store_false', help='skip torch.compile')
    parser.add_argument(
        '--check',
        action='store_true',
        help='first compare with the 60-digit values of tests/data (needs numpy); stop if they differ',
    )
    measure.add_common_options(parser, rounds=30)
    args = parser.parse_args()
    args.dtypes = args.dtypes or (list(DTYPES) if args.device.type == 'cuda' else ['float32'])
    args.shapes = [(args.batch, *sizes) if len(sizes) == 3 else sizes for sizes in args.shapes]
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


def main() -> int:
    args = parse_args()
    described = measure.begin(args)
    build(args.device)
    if args.check:
        print('worst error of each column:', flush=True)
        if not check(args.device):
            print('the values are wrong on this device, so nothing is timed', file=sys.stderr)
            return 1
    torch.manual_seed(0)
    name = f'activations_{args.device.type}{"_channels_last" * args.channels_last}.csv'
    table = measure.Table(args.out / name, COLUMNS, described)
    clock = measure.clock_of(args.device, hold=True)
    choose = partial(registered, args.types) if args.types else contenders
    with tempfile.TemporaryDirectory() as folder:
        os.environ['TORCHINDUCTOR_CACHE_DIR'] = folder  # the cache of an earlier run would shorten compile_s
        jobs = [(name, sizes) for sizes in args.shapes for name in args.dtypes]
        for i, (dtype, sizes) in enumerate(jobs, 1):
            print(f'[{i}/{len(jobs)}] {dtype} {measure.shape_text(sizes)}, {args.rounds} rounds', flush=True)
            measure_shape(table, sizes, DTYPES[dtype], args, clock, choose)
            draw_figure(table, args.device, described['date'])
    print(f'written: {table.path}', flush=True)
    return 0


def build(device: torch.device) -> None:
    """Makes every backend build its kernels."""
    z, one = torch.randn(2, 3, 4, 4, device=device, requires_grad=True), torch.ones(1, device=device)
    for name in serving(z):
        start = time.perf_counter()
        with ops.use_backend(name):
            ops.aglu(z, one, one).sum().backward()
        print(f'backend {name}: ready after {time.perf_counter() - start:.1f} s', flush=True)


if __name__ == '__main__':
    sys.exit(main())

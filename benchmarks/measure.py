"""What the benchmarks share: clocks, options, the environment and the table of results. memory.py counts memory.

Imported before torch: it puts this checkout first on the path, installed or not.

Contenders take turns in one process, in a new order each round, so that noise hits all of them alike; the median is
reported with the quartiles beside it. On a GPU a step is timed by events, and a buffer of twice the L2 cache is written
before each, so that no tensor is read from the cache. Where single operators are compared, the stream is held until the
host has queued the whole step: the time is then that of the GPU, and the time that the host took to queue is another
figure. On a CPU nothing is flushed: a tensor smaller than the last cache is timed from there, for every contender.
"""

import argparse
import atexit
import csv
import gc
import os
import platform
import random
import shlex
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # read when torch is imported; silences the profiler

import torch  # noqa: E402

from apa_mmdet.utils.cli import at_least  # noqa: E402
from apa_mmdet.version import __version__  # noqa: E402

MIB = 2**20
STEPS = ('forward', 'forward_backward')
GPU_HOLD = 4_000_000  # clock cycles, 2 ms or more: the host queues a step of one operator in a fraction of it
GPU_L2 = 64 * MIB  # where torch does not report the size
# Settings that make glibc keep freed memory. Without the last, glibc before 2.38 keeps the cut-off ends of aligned
# blocks in its cache of small blocks, so that large blocks never merge and every tensor gets new pages.
KEEP_MEMORY = dict(
    MALLOC_MMAP_THRESHOLD_='4294967296',
    MALLOC_TRIM_THRESHOLD_='17179869184',
    MALLOC_TOP_PAD_='268435456',
    GLIBC_TUNABLES='glibc.malloc.tcache_count=0',
)


# Time


class Sample(NamedTuple):
    """Seconds of a call on its device, and of the host to queue it; equal on a CPU."""

    device: float
    host: float


Clock = Callable[[Callable], Sample]


class Spread(NamedTuple):
    median: float
    low: float
    high: float


def spread(samples: Iterable[float]) -> Spread:
    """Median and quartiles."""
    return Spread(
        *torch.tensor(list(samples), dtype=torch.float64)
        .quantile(torch.tensor([0.5, 0.25, 0.75], dtype=torch.float64))
        .tolist()
    )


def milliseconds(samples: Iterable[Sample], prefix: str = '') -> dict[str, float]:
    """The columns ``ms``, ``ms_low`` and ``ms_high``: median and quartiles of the time on the device."""
    figures = spread(sample.device * 1e3 for sample in samples)
    return dict(zip((f'{prefix}ms', f'{prefix}ms_low', f'{prefix}ms_high'), figures))


def cpu_clock(call: Callable) -> Sample:
    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    return Sample(seconds, seconds)


class GPUClock:
    """Times calls on a CUDA device with cold caches; ``hold``: queue the whole call before it starts."""

    def __init__(self, device: torch.device, hold: bool) -> None:
        size = getattr(torch.cuda.get_device_properties(device), 'L2_cache_size', 0) or GPU_L2
        self.flush = torch.empty(2 * size, dtype=torch.uint8, device=device)
        self.hold = hold

    def __call__(self, call: Callable) -> Sample:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self.flush.device)
        self.flush.zero_()
        if self.hold:
            torch.cuda._sleep(GPU_HOLD)
        else:
            torch.cuda.synchronize(self.flush.device)
        begin = time.perf_counter()
        start.record()
        call()
        end.record()
        host = time.perf_counter() - begin
        end.synchronize()
        return Sample(start.elapsed_time(end) / 1e3, host)


def clock_of(device: torch.device, hold: bool) -> Clock:
    return GPUClock(device, hold) if device.type == 'cuda' else cpu_clock


def round_robin(calls: dict[Hashable, Callable], rounds: int, clock: Clock) -> dict[Hashable, list[Sample]]:
    """Takes ``rounds`` samples of each call; the calls must be warm."""
    samples = {key: [] for key in calls}
    order, shuffle = list(calls), random.Random(0).shuffle
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            gc.collect()
            shuffle(order)
            for key in order:
                samples[key].append(clock(calls[key]))
    finally:
        if collecting:
            gc.enable()
    return samples


# Where and how


def add_common_options(parser: argparse.ArgumentParser, rounds: int) -> None:
    parser.add_argument(
        '--device',
        type=_device,
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='cpu, cuda or cuda:1 (default here: %(default)s)',
    )
    parser.add_argument(
        '--rounds', type=at_least(2), default=rounds, help='samples of each figure (default: %(default)s)'
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/benchmarks'),
        metavar='DIR',
        help='folder of the CSV and PNG; files of the same name are replaced (default: %(default)s)',
    )
    parser.add_argument(
        '--keep-memory',
        action='store_true',
        help='Linux with glibc: restart with settings under which the process keeps freed memory; new pages from '
        'the system can take longer than the computation',
    )


def _device(text: str) -> torch.device:
    kind, _, index = text.partition(':')
    if kind == 'cpu':
        return torch.device('cpu')
    if kind != 'cuda' or not torch.cuda.is_available():
        raise argparse.ArgumentTypeError(f'{text!r} is not an available device')
    device = torch.device('cuda', int(index or 0))
    torch.cuda.set_device(device)  # events and random numbers are those of the current one
    return device


def shape(text: str) -> tuple[int, ...]:
    """The type of an argument such as 2x64x25x42."""
    parts = text.lower().split('x')
    if not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f'{text!r} is not a shape such as 2x64x25x42')
    return tuple(map(int, parts))


def shape_text(sizes: Sequence[int]) -> str:
    return 'x'.join(map(str, sizes))


def begin(args: argparse.Namespace) -> dict[str, str]:
    """Applies the common options before anything is measured; prints and returns the environment."""
    if args.keep_memory and not _memory_is_kept():
        _start_again()
    gc.freeze()  # imported objects need not be searched for garbage before each count,
    atexit.register(gc.unfreeze)  # but are freed in the end
    described = environment(args.device)
    print('\n'.join(f'{name}: {text}' for name, text in described.items()), flush=True)
    return described


def _start_again() -> None:
    """Restarts this script under :data:`KEEP_MEMORY`, which glibc reads when a process starts."""
    print('restarting with the settings that keep memory', flush=True)
    tunables = [text for text in (os.environ.get('GLIBC_TUNABLES'), KEEP_MEMORY['GLIBC_TUNABLES']) if text]
    settings = dict(KEEP_MEMORY, GLIBC_TUNABLES=':'.join(tunables))
    arguments = sys.orig_argv[1:] if hasattr(sys, 'orig_argv') else sys.argv  # python 3.9 forgets its own options
    os.execve(sys.executable, [sys.executable, *arguments], dict(os.environ, **settings))


def _memory_is_kept() -> bool:
    return all(value in os.environ.get(name, '') for name, value in KEEP_MEMORY.items())


def environment(device: torch.device) -> dict[str, str]:
    """Describes hardware and versions."""
    described = {
        'date': time.strftime('%Y-%m-%d %H:%M %Z'),
        'command': command(),
        'hardware': hardware(device),
        'system': f'{platform.system()} {platform.machine()}, {" ".join(platform.libc_ver())}'.strip(', '),
        'python': platform.python_version(),
        'torch': torch.__version__,
        'apa_mmdet': __version__,
    }
    if device.type == 'cuda':
        described['host'] = hardware(torch.device('cpu'))
        described['cuda'] = f'{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}'
        described['tf32 convolutions'] = str(torch.backends.cudnn.allow_tf32)
    else:
        kept = ' '.join(f'{name}={os.environ[name]}' for name in KEEP_MEMORY) if _memory_is_kept() else ''
        described['freed memory'] = f'kept by the process ({kept})' if kept else "as the system's allocator has it"
    return described


def command() -> str:
    script, *arguments = sys.argv
    path = Path(script).resolve()
    return shlex.join(['python', str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name), *arguments])


def hardware(device: torch.device) -> str:
    if device.type == 'cuda':
        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return f'{_processor()}, {_count(cores, "core")}, {_count(torch.get_num_threads(), "thread")}'


def _count(number: int, thing: str) -> str:
    return f'{number} {thing}{"s" * (number != 1)}'


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()


# Results


class Table:
    """A CSV file that is complete after every row; lines with # give hardware, versions and command."""

    def __init__(self, path: Path, columns: Sequence[str], described: dict[str, str]) -> None:
        self.path, self.columns, self.rows = path, columns, []
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f'# {name}: {text}\n' for name, text in described.items()]
        path.write_text(''.join([*lines, ','.join(columns), '\n']), encoding='utf-8')

    def add(self, **row) -> None:
        unknown = set(row) - set(self.columns)
        if unknown:
            raise ValueError(f'the table has no column {sorted(unknown)[0]!r}')
        with self.path.open('a', newline='', encoding='utf-8') as file:
            csv.writer(file, lineterminator='\n').writerow([cell(row.get(column)) for column in self.columns])
        self.rows.append(row)


class Results(NamedTuple):
    """A table that was written: the environment, and a dict of texts for each row."""

    described: dict[str, str]
    rows: list[dict[str, str]]


def read_results(path: Path) -> Results:
    lines = path.read_text(encoding='utf-8').splitlines()
    described = dict(line[2:].split(': ', 1) for line in lines if line.startswith('# '))
    return Results(described, list(csv.DictReader(line for line in lines if not line.startswith('#'))))


def cell(value) -> str:
    return '' if value is None else f'{value:.5g}' if isinstance(value, float) else str(value)


def time_columns(reference: str) -> list[str]:
    """Returns the names of the columns of :func:`times`."""
    return [f'{step}_{end}' for step in STEPS for end in ('ms', 'ms_low', 'ms_high')] + [
        f'{step}_to_{reference}' for step in STEPS
    ]


def times(
    samples: dict[tuple[str, str], list[Sample]], name: str, reference: str, reference_name: str
) -> dict[str, float]:
    """Returns the time columns of contender ``name``, from ``samples`` by contender and step: medians, quartiles, and
    the ratio of the medians to those of ``reference_name``, if that could run.
    """
    columns = {}
    for step in STEPS:
        columns |= milliseconds(samples[name, step], f'{step}_')
        if (reference_name, step) in samples:
            columns[f'{step}_to_{reference}'] = (
                columns[f'{step}_ms'] / milliseconds(samples[reference_name, step])['ms']
            )
    return columns


def reason(error: Exception) -> str:
    """Formats the note of a contender that cannot run."""
    lines = str(error).strip().splitlines()
    return f'failed: {type(error).__name__}: {lines[0] if lines else ""}'


def name_of(thing) -> str:
    """'float32', 'channels_last', 'contiguous'."""
    return str(thing).replace('torch.', '').replace('_format', '')

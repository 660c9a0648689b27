"""Shared by the benchmarks: time of calls, options, the environment, tables of results and their charts.

Imported before torch: it puts this checkout first on the path, installed or not.

Contenders take turns in one process, in a new order each round, so that noise hits all of them alike; the median is
reported with the quartiles beside it. On a GPU a call is timed by events, and a buffer of twice the L2 cache is written
before each, so that no tensor is read from the cache. Where single operators are compared, the stream is held until the
host has queued the whole call: the time is then that of the GPU, and the time that the host took to queue is another
figure. On a CPU nothing is flushed: a tensor smaller than the last cache is timed from there, for every contender.
"""

import argparse
import contextlib
import csv
import gc
import os
import platform
import random
import re
import shlex
import statistics
import sys
import time
import timeit
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # read when torch is imported; silences the profiler

import torch  # noqa: E402

from apa_mmdet import ops  # noqa: E402
from apa_mmdet.utils.cli import at_least  # noqa: E402
from apa_mmdet.utils.errors import CodedError  # noqa: E402
from apa_mmdet.version import __version__  # noqa: E402

MIB = 2**20
STEPS = ('forward', 'forward_backward')
DTYPES = ('float32', 'bfloat16', 'float16')
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
    """Milliseconds of a call on its device, and of the host to queue it; equal on a CPU."""

    device: float
    host: float


def clock_of(device: str, hold: bool = False) -> Callable[[Callable], Sample]:
    """Returns the function that times a call. ``hold``: the GPU waits until the host has queued the whole call."""
    if device == 'cpu':
        return lambda call: Sample(*[timeit.timeit(call, number=1) * 1e3] * 2)
    size = getattr(torch.cuda.get_device_properties(device), 'L2_cache_size', 0) or GPU_L2
    flush = torch.empty(2 * size, dtype=torch.uint8, device=device)

    def clock(call: Callable) -> Sample:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        flush.zero_()
        if hold:
            torch.cuda._sleep(GPU_HOLD)
        else:
            torch.cuda.synchronize()
        start.record()
        host = timeit.timeit(call, number=1) * 1e3
        end.record()
        end.synchronize()
        return Sample(start.elapsed_time(end), host)

    return clock


def prepare(contenders: dict[str, Callable[[], dict[str, Callable]]]) -> tuple[dict, dict[str, str]]:
    """Builds contenders and warms them up.

    Returns their calls by contender and step, and the notes of those that cannot run, so that the others go on.
    """
    calls, notes = {}, {}
    for name, build in contenders.items():
        try:
            steps = build()
            for _ in range(3):
                for call in steps.values():
                    call()
        except Exception as error:  # out of memory, a compiler that is missing or fails
            notes[name] = reason(error)
        else:
            calls |= {(name, step): call for step, call in steps.items()}
    return calls, notes


def round_robin(calls: dict[Hashable, Callable], rounds: int, device: str, hold: bool = False) -> dict:
    """Takes ``rounds`` samples of each call; the calls must be warm."""
    clock, shuffled = clock_of(device, hold), random.Random(0)
    samples = {key: [] for key in calls}
    for _ in range(rounds):
        gc.collect()
        for key in shuffled.sample(list(calls), len(calls)):
            samples[key].append(clock(calls[key]))
    return samples


def milliseconds(samples: Iterable[Sample], prefix: str = '') -> dict[str, float]:
    """Returns the columns ``ms``, ``ms_low`` and ``ms_high``: median and quartiles of the time on the device."""
    low, median, high = statistics.quantiles([sample.device for sample in samples], method='inclusive')
    return {f'{prefix}ms': median, f'{prefix}ms_low': low, f'{prefix}ms_high': high}


def times(samples: dict[tuple[str, str], list[Sample]], name: str, reference: str, ratio: str) -> dict[str, float]:
    """Returns the time columns of contender ``name``: median and quartiles of each step, and the ratio of the median to
    that of ``reference``, if that could run, in a column that ends with ``ratio``.
    """
    columns = {}
    for step in STEPS:
        columns |= milliseconds(samples[name, step], f'{step}_')
        if (reference, step) in samples:
            columns[f'{step}_{ratio}'] = columns[f'{step}_ms'] / milliseconds(samples[reference, step])['ms']
    return columns


def in_a_process(function: Callable, *args):
    """Returns the result of a function that runs in a process of its own."""
    with ProcessPoolExecutor(1, get_context('spawn')) as pool:
        return pool.submit(function, *args).result()


def serving(x: torch.Tensor) -> list[str]:
    """Returns the backends of this project's operators that serve such a tensor, the one that is used first."""
    return [name for name, backend in ops.backends().items() if backend.serves(x)]


def reason(error: Exception) -> str:
    """Formats the note of a contender that cannot run."""
    return f'failed: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}'


# Options and the environment


def parser_of(doc: str, rounds: int) -> argparse.ArgumentParser:
    """Returns a parser with the options that all benchmarks of time have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    devices = ['cpu', 'cuda'][: 1 + torch.cuda.is_available()]
    parser.add_argument('--device', choices=devices, default=devices[-1], help='default here: %(default)s')
    parser.add_argument('--rounds', type=at_least(2), default=rounds, help='samples of a figure (default: %(default)s)')
    add_out(parser)
    text = 'with glibc: restart so that the process keeps freed memory; new pages can take longer than the computation'
    parser.add_argument('--keep-memory', action='store_true', help=text)
    return parser


def add_out(parser: argparse.ArgumentParser) -> None:
    text = 'folder of the results; files of the same name are replaced (default: %(default)s)'
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmarks'), metavar='DIR', help=text)


def shape(text: str) -> tuple[int, ...]:
    """The type of an argument such as 2x64x25x42."""
    if not re.fullmatch(r'[1-9]\d*(x[1-9]\d*)*', text):
        raise argparse.ArgumentTypeError(f'{text!r} is not a shape such as 2x64x25x42')
    return tuple(map(int, text.split('x')))


def shape_text(sizes: Sequence[int]) -> str:
    return 'x'.join(map(str, sizes))


def begin(args: argparse.Namespace, name: str, shown: str, suffix: str = '') -> 'Table':
    """Applies ``--keep-memory``, prints the environment and returns the empty table of this device."""
    if args.keep_memory and not _memory_is_kept():  # glibc reads the settings when a process starts
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **KEEP_MEMORY})
    described = environment(args.device)
    table = Table(args.out / f'{name}_{args.device}{suffix}.csv', described, shown)
    if os.environ.get('RANK', '0') == '0':
        print('\n'.join(f'{key}: {text}' for key, text in dict(described, results=table.path).items()), flush=True)
    return table


def _memory_is_kept() -> bool:
    return KEEP_MEMORY.items() <= os.environ.items()


def environment(device: str) -> dict[str, str]:
    """Describes hardware, versions and the command."""
    path = Path(sys.argv[0]).resolve()
    script = str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name)
    described = {
        'date': time.strftime('%Y-%m-%d %H:%M %Z'),
        'command': shlex.join(['python', script, *sys.argv[1:]]),
        'hardware': hardware(device),
        'system': platform.platform(),
        'python': platform.python_version(),
        'torch': torch.__version__,
        'apa_mmdet': __version__,
    }
    with contextlib.suppress(ImportError):
        import mmdet

        described['mmdet'] = mmdet.__version__
    if device == 'cuda':
        described['host'] = hardware('cpu')
        described['cuda'] = f'{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}'
        described['tf32 convolutions'] = str(torch.backends.cudnn.allow_tf32)
    else:
        kept = ' '.join(f'{name}={value}' for name, value in KEEP_MEMORY.items())
        described['freed memory'] = f'kept ({kept})' if _memory_is_kept() else "as the system's allocator has it"
    return described


def hardware(device: str) -> str:
    if device == 'cuda':
        return torch.cuda.get_device_name()
    info = Path('/proc/cpuinfo').read_text() if Path('/proc/cpuinfo').exists() else ''
    named = re.search(r'model name\s*: (.*)', info)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return f'{named[1] if named else platform.machine()}, {cores} cores, {torch.get_num_threads()} threads'


# Results


class Table:
    """A CSV file that is complete at any time; lines with # give hardware, versions and command.

    ``shown`` names the columns that are also printed, separated by spaces.
    """

    def __init__(self, path: Path, described: dict[str, str], shown: str) -> None:
        self.path, self.described, self.shown, self.rows = path, described, shown.split(), []

    def add(self, **row) -> None:
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix('.part')  # utils/fileio.py needs MMEngine
        with partial.open('w', newline='', encoding='utf-8') as file:
            file.writelines(f'# {name}: {text}\n' for name, text in self.described.items())
            columns = dict.fromkeys(column for row in self.rows for column in row)
            writer = csv.DictWriter(file, columns, lineterminator='\n')
            writer.writeheader()
            writer.writerows({column: cell(value) for column, value in row.items()} for row in self.rows)
        os.replace(partial, self.path)
        first, *others = (column for column in self.shown if row.get(column) not in (None, ''))
        print(f'  {cell(row[first]):<26}', *(f'  {column} {cell(row[column])}' for column in others), flush=True)


def read_results(path: Path) -> list[dict[str, str]]:
    """Reads the rows of a table, each with the lines with # above it.

    Raises:
        CodedError: ``cut-line``, for a line that was cut off.
    """
    rows, columns, described = [], [], {}
    for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
        cells = next(csv.reader([line]), [])
        if line.startswith('#'):
            described |= [line.removeprefix('# ').split(': ', 1)]
        elif columns and len(cells) != len(columns):
            text = f'{path}, line {number}: {len(cells)} cells instead of {len(columns)}; delete the line'
            raise CodedError('cut-line', text)
        elif columns:
            rows.append({**described, **dict(zip(columns, cells))})
        else:
            columns = cells
    return rows


def cell(value) -> str:
    return '' if value is None else f'{value:.5g}' if isinstance(value, float) else str(value)


def draw_ratios(table: Table, reference: str, panels: dict[str, str], series: Sequence[str], over: str = '') -> None:
    """Draws the table as bars relative to contender ``reference``, or prints that matplotlib is not installed.

    Args:
        table: rows with a ``name``; those with a note that they failed are skipped.
        reference: the contender whose bars are 1, for equal values of ``series`` and ``over``.
        panels: a column of bars each: its title and the column of the table.
        series: columns whose values have a color each.
        over: a column over whose values a bar is the median, with a line from the smallest to the largest.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print('no chart: matplotlib is not installed', flush=True)
        return

    def case(row: dict) -> tuple:
        return tuple(row.get(column) for column in (*series, over))

    rows = [row for row in table.rows if all(column in row for column in panels.values())]
    references = {case(row): row for row in rows if row['name'] == reference}
    rows = [row for row in rows if case(row) in references]
    names, cases = list(dict.fromkeys(row['name'] for row in rows)), list(dict.fromkeys(case(row)[:-1] for row in rows))
    if not rows:
        return
    figure = Figure((2 + 3 * len(panels), 1.5 + len(names) * (0.14 + 0.2 * len(cases))), layout='constrained')
    axes = figure.subplots(1, len(panels), sharey=True)
    for axis, (title, column) in zip(axes, panels.items()):
        for i, values in enumerate(cases):
            ratios = {name: [] for name in names}
            for row in rows:
                if case(row)[:-1] == values:
                    ratios[row['name']].append(row[column] / references[case(row)][column])
            ratios = {name: found for name, found in ratios.items() if found}
            places = [names.index(name) + 0.8 * ((i + 0.5) / len(cases) - 0.5) for name in ratios]
            medians = [statistics.median(found) for found in ratios.values()]
            ends = [[abs(end(found) - middle) for found, middle in zip(ratios.values(), medians)] for end in (min, max)]
            label = ', '.join(f'{key} {value}' for key, value in zip(series, values))
            bars = axis.barh(places, medians, 0.7 / len(cases), xerr=ends, color=f'C{i}', alpha=0.75, label=label)
            axis.bar_label(bars, fmt='%.2f', padding=3, fontsize=7)
        axis.axvline(1, color='black', linestyle='--', linewidth=0.8)
        axis.set_title(title, fontsize=9)
        axis.margins(x=0.2)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside lower center', ncols=3, fontsize=8)
    span = f'; median and range over each {over}' if over else ''
    head = '{hardware}, torch {torch}, {date}'.format(**table.described)
    figure.suptitle(f'Relative to {reference}{span}\n{head}', fontsize=10)
    figure.savefig(table.path.with_suffix('.png'), dpi=150)

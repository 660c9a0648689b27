"""Which activation and which loss win on tiny LVIS: seven contenders of one network, one budget, three seeds each.

    python tools/make_tiny_lvis.py                                  # the data, once
    python tools/benchmarks/ablation.py                             # some four hours on two cores
    python tools/benchmarks/ablation.py --runs apa-gol acon --seeds 0
    python tools/benchmarks/ablation.py --table                     # what there is so far, into docs/ablation.md

Every run is a process of tools/train.py, one after another, seed 0 of every contender first. Its result is written as
soon as it ends; the same command, started again, skips what is there and does the rest, an interrupted run from its
beginning. A run that fails is reported and tried again by the next call.

``step_ms`` is the median of the logged times of a step, each the mean of up to 50, data loading included;
``cpu_s`` the processor time of the whole process, which neighbours on the machine disturb less; ``peak_mib`` the most
memory that the process had resident, or that torch had allocated on the GPU.
"""
import argparse
import csv
import importlib.metadata
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Optional, Tuple

import measure  # noqa: I001  before torch
import torch

CONFIGS = measure.ROOT / 'configs/tiny_lvis'
PAGE = measure.ROOT / 'docs/ablation.md'
BEGIN, END = '<!-- written by tools/benchmarks/ablation.py --table -->', '<!-- end of the table -->'


class Contender(NamedTuple):
    config: str
    activation: str
    gate: str
    loss: str


CONTENDERS: Dict[str, Contender] = {
    'relu-softmax': Contender('mask_rcnn_se_r18_relu_softmax', 'ReLU', 'sigmoid', 'softmax CE'),
    'relu-gol': Contender('mask_rcnn_se_r18_relu_gol', 'ReLU', 'sigmoid', 'GOL'),
    'apa-softmax': Contender('mask_rcnn_se_r18_apa_softmax', 'AGLU', 'APA', 'softmax CE'),
    'apa-gol': Contender('mask_rcnn_se_r18_apa', 'AGLU', 'APA', 'GOL'),
    'acon': Contender('mask_rcnn_se_r18_acon', 'ACON-C', 'sigmoid', 'GOL'),
    'meta-acon': Contender('mask_rcnn_se_r18_meta-acon', 'Meta-ACON', 'sigmoid', 'GOL'),
    'apalu': Contender('mask_rcnn_se_r18_apalu', 'APALU', 'sigmoid', 'GOL'),
}
SEEDS = (0, 1, 2)
METRICS = {'mask_ap': 'lvis/segm_AP', 'mask_apr': 'lvis/segm_APr', 'mask_apc': 'lvis/segm_APc',
           'mask_apf': 'lvis/segm_APf', 'box_ap': 'lvis/bbox_AP'}
COLUMNS = ('name', 'seed', 'epochs', *METRICS, 'step_ms', 'peak_mib', 'cpu_s', 'minutes', 'options')


class Results(measure.Table):
    """A CSV that grows over several calls; each puts lines with # before its first row."""

    def __init__(self, path: Path, described: Dict[str, str]) -> None:
        if path.exists():
            self.path, self.columns, self.rows = path, COLUMNS, read(path)
        else:
            super().__init__(path, COLUMNS, {})
        self.described = described

    def add(self, **row) -> None:
        if self.described:
            with self.path.open('a', encoding='utf-8') as file:
                file.writelines(f'# {name}: {text}\n' for name, text in self.described.items())
            self.described = {}
        super().add(**row)


def read(path: Path) -> List[Dict[str, str]]:
    """The rows of a CSV of results, each with what was said (hardware, torch …) before it."""
    said, rows, columns = {}, [], None
    for line in path.read_text(encoding='utf-8').splitlines():
        if line.startswith('#'):
            said.update([line[2:].split(': ', 1)])
        elif columns is None:
            columns = line.split(',')
            if columns != list(COLUMNS):
                raise ValueError(f'{path} has other columns than this script writes; name another file with --out')
        else:
            rows.append({**said, **dict(zip(columns, next(csv.reader([line]))))})
    return rows


# Runs


def run(name: str, seed: int, work_dir: Path, options: List[str]) -> Dict[str, float]:
    """Train and evaluate one contender; the figures of its row.

    Raises:
        RuntimeError: if the run fails.
    """
    shutil.rmtree(work_dir, ignore_errors=True)  # of a run that was interrupted
    work_dir.mkdir(parents=True)
    output = work_dir / 'output.txt'
    command = [sys.executable, measure.ROOT / 'tools/train.py', CONFIGS / f'{CONTENDERS[name].config}.py', '--work-dir',
               work_dir, '--cfg-options', f'randomness.seed={seed}', 'default_hooks.checkpoint.save_optimizer=False',
               *options]
    paths = [str(measure.ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]  # this checkout's, whatever is installed
    begin = time.time()
    with output.open('w') as file:
        process = subprocess.Popen([str(part) for part in command], stdout=file, stderr=subprocess.STDOUT,
                                   env=dict(os.environ, PYTHONPATH=os.pathsep.join(paths)))
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        lines = output.read_text(errors='replace').strip().splitlines() or ['it said nothing']
        raise RuntimeError(f'{lines[-1]} (exit status {process.returncode}; all it said: {output})')
    resident = usage.ru_maxrss * (1 if sys.platform == 'darwin' else 1024)
    return dict(figures(work_dir, resident), cpu_s=usage.ru_utime + usage.ru_stime, minutes=(time.time() - begin) / 60)


def figures(work_dir: Path, resident: int) -> Dict[str, float]:
    """What the logs of a run say; ``resident`` bytes are its memory where they name none of a GPU."""
    logged = [json.loads(line) for path in work_dir.glob('*/vis_data/scalars.json')
              for line in path.read_text().splitlines()]
    steps = [line for line in logged if 'loss' in line]
    results = [line for line in logged if METRICS['mask_ap'] in line]
    if not steps or not results:
        missing = 'no result, perhaps because nothing was detected' if steps else 'no step'
        raise RuntimeError(f'its logs in {work_dir} hold {missing}')
    on_gpu = max(line.get('memory', 0) for line in steps) * measure.MIB
    return dict({column: results[-1][key] for column, key in METRICS.items()}, epochs=results[-1]['step'],
                step_ms=statistics.median(line['time'] for line in steps) * 1e3,
                peak_mib=(on_gpu or resident) / measure.MIB)


def run_all(results: Results, todo: List[Tuple[str, int]], args: argparse.Namespace) -> int:
    """Do what is to be done as long as there is time; how many runs failed."""
    begin, longest, failed = time.time(), 0., 0
    for i, (name, seed) in enumerate(todo):
        started = time.time()
        if started + longest - begin >= args.max_hours * 3600:
            print(f'stopped: a run as long as the longest would not end within --max-hours {args.max_hours:g}; '
                  f'{len(todo) - i} left, the same command goes on')
            break
        print(f'[{i + 1}/{len(todo)}] {name}, seed {seed} …', flush=True)
        try:
            row = run(name, seed, Path('work_dirs') / args.out.stem / f'{name}_seed{seed}', args.cfg_options)
        except RuntimeError as error:
            failed += 1
            print(f'ablation: {name}, seed {seed}, failed: {error}', flush=True)
            continue
        results.add(name=name, seed=seed, options=' '.join(args.cfg_options), **row)
        longest = max(longest, time.time() - started)
        hours = (time.time() - begin) / 3600 / (i + 1) * (len(todo) - i - 1)
        print(f'    mask AP {row["mask_ap"]:.3f}, APr {row["mask_apr"]:.3f}, {row["step_ms"]:.0f} ms a step, '
              f'{row["peak_mib"]:.0f} MiB, {row["minutes"]:.1f} minutes; {len(todo) - i - 1} left, '
              f'about {hours:.1f} hours', flush=True)
    return failed


# The table


def markdown(rows: List[Dict[str, str]]) -> str:
    """The table and what was measured where, from the rows of a CSV.

    Raises:
        ValueError: if the runs are of different lengths or had different options.
    """
    for column in ('epochs', 'options'):
        values = sorted({row[column] for row in rows})
        if len(values) > 1:
            raise ValueError(f'runs of different {column} cannot be compared: {", ".join(map(repr, values))}; '
                             'keep them in different files with --out')
    seeds = {name: [row for row in rows if row['name'] == name] for name in CONTENDERS}
    head = ('activation', 'gate', 'loss', 'seeds', 'mask AP', 'APr', 'APc', 'APf', 'ms a step', 'CPU time, s',
            'peak memory, MiB')
    lines = [f'| {" | ".join(head)} |', '|---' * len(head) + '|']
    for name, (_, activation, gate, loss) in CONTENDERS.items():
        cells = [mean_and_spread((float(row[column]) for row in seeds[name]), 3 if column.startswith('mask') else 0)
                 for column in ('mask_ap', 'mask_apr', 'mask_apc', 'mask_apf', 'step_ms', 'cpu_s', 'peak_mib')]
        lines.append(f'| {" | ".join([activation, gate, loss, str(len(seeds[name])), *cells])} |')
    return '\n'.join([*lines, '', *_conditions(rows, seeds)])


def _conditions(rows: List[Dict[str, str]], seeds: Dict[str, List]) -> Iterable[str]:
    done, wanted = sum(map(len, seeds.values())), len(CONTENDERS) * len(SEEDS)
    yield f'{done} of {wanted} runs so far.' if done < wanted else f'All {wanted} runs.'
    if rows:
        options = f', with `{rows[0]["options"]}`' if rows[0]['options'] else ''
        dates = sorted(row['date'].split()[0] for row in rows)
        yield f'{rows[0]["epochs"]} epochs each{options}; {" to ".join(dict.fromkeys((dates[0], dates[-1])))}.'
        for where in dict.fromkeys(f'{row["hardware"]}; Python {row["python"]}, PyTorch {row["torch"]}, '
                                   f'MMDetection {row["mmdet"]}.' for row in rows):
            yield where


def mean_and_spread(values: Iterable[float], digits: int) -> str:
    """Mean ± standard deviation of the sample; of one value only itself.

    LVIS gives −1 where there is nothing to average.
    """
    values = list(values)
    if not values or min(values) < 0:
        return '–'
    spread = f' ± {statistics.stdev(values):.{digits}f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.{digits}f}{spread}'


def write_table(rows: List[Dict[str, str]], page: Path) -> None:
    """Put the table between its two marks in a page."""
    text = page.read_text(encoding='utf-8')
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f'{page} has no place for the table: it has to hold the lines {BEGIN} and {END}')
    page.write_text(f'{before}{begin}\n{markdown(rows)}\n{end}{after}', encoding='utf-8')


def parse_args(arguments: Optional[List[str]] = None) -> argparse.Namespace:
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--runs', nargs='+', choices=CONTENDERS, default=list(CONTENDERS), metavar='NAME',
                        help=f'contenders: {", ".join(CONTENDERS)} (default: all)')
    parser.add_argument('--seeds', nargs='+', type=measure.at_least(0), default=list(SEEDS), metavar='SEED')
    parser.add_argument('--out', type=Path, metavar='CSV',
                        default=measure.ROOT / f'tools/benchmarks/results/ablation_{device}.csv',
                        help='results; the runs lie in work_dirs/ under its name (default: %(default)s)')
    parser.add_argument('--max-hours', type=float, default=float('inf'),
                        help='begin no run that would not end in this time (default: no limit)')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='handed on to tools/train.py')
    parser.add_argument('--table', nargs='?', type=Path, const=PAGE, metavar='PAGE',
                        help='run nothing, write the table of this page (default: docs/ablation.md)')
    return parser.parse_args(arguments)


def environment() -> Dict[str, str]:
    described = measure.environment(torch.device('cuda' if torch.cuda.is_available() else 'cpu'))
    described.pop('freed memory', None)  # of this process, which measures nothing
    return dict(described, mmdet=importlib.metadata.version('mmdet'))


def main(arguments: Optional[List[str]] = None) -> int:
    args = parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else the run in progress would go on by itself
    try:
        if args.table:
            write_table(read(args.out), args.table)
            print(f'written: {args.table}')
            return 0
        results = Results(args.out, environment())
        if {row['options'] for row in results.rows} - {' '.join(args.cfg_options)}:
            raise ValueError(f'{args.out} holds runs with other --cfg-options; name another file with --out')
        done = {(row['name'], int(row['seed'])) for row in results.rows}
        todo = [key for seed in args.seeds for name in args.runs if (key := (name, seed)) not in done]
        print(f'{len(done)} runs are in {args.out}, {len(todo)} to do', flush=True)
        return int(run_all(results, todo, args) > 0)
    except (OSError, ValueError) as error:
        print(f'ablation: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('\ninterrupted: the same command goes on', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())

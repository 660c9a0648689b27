"""Which activation and which loss win on tiny LVIS: seven contenders of one network, one budget, three seeds each.

    python tools/make_tiny_lvis.py                                  # the data, once
    python benchmarks/ablation.py                             # some four hours on two cores
    python benchmarks/ablation.py --runs apa-gol acon --seeds 0
    python benchmarks/step.py                                 # time and memory of a step, on an idle machine
    python benchmarks/ablation.py --table                     # what there is so far, into docs/ablation.md

Every run is a process of tools/train.py, one after another, seed 0 of every contender first. Its result is written as
soon as it ends; the same command, started again, skips what is there and does the rest, an interrupted run from its
beginning. The command may be started several times at once, and then shares the work; what still trains after its
parent was killed is left alone.

A run that diverges counts: where it leaves no result, its AP is 0, and the column ``note`` says why. A run that fails
otherwise is reported and tried again by the next call. ``config`` is a hash of the parsed config, without the
``options``; ``commit`` has a + where tracked files were changed. ``minutes`` say how long the run took, beside whatever
else ran: time and memory are measured by step.py.
"""

import argparse
import fcntl
import hashlib
import importlib.metadata
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import measure
import torch
from ablation_table import (
    CONFIGS,
    CONTENDERS,
    METRICS,
    SEEDS,
    add,
    key_of,
    markdown,
    read,
    read_steps,
    refuse_other_configs,
    write_table,
)
from mmengine.config import Config
from tqdm import tqdm

PAGE = measure.ROOT / 'docs/ablation.md'
# what SkipNonFiniteHook ends with; FastLVISMetric; MMDetection's metric, where it gives no result
DIVERGED = re.compile(
    r'^FloatingPointError: .*|^ValueError: image .* are not finite$|'
    r'The testing results of the whole dataset is empty',
    re.MULTILINE,
)
STEP = re.compile(r'Epoch\(train\) +\[(\d+)]\[ *(\d+)/(\d+)]')


def run(name: str, seed: int, folder: Path, options: list[str], lock: int) -> dict:
    """Train and evaluate one contender; the figures of its row. The process inherits the descriptor ``lock``.

    Raises:
        RuntimeError: if the run fails.
    """
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was interrupted
    folder.mkdir(parents=True)
    config = CONFIGS / f'{CONTENDERS[name].config}.py'
    command = [
        sys.executable,
        measure.ROOT / 'tools/train.py',
        config,
        '--work-dir',
        folder,
        '--cfg-options',
        f'randomness.seed={seed}',
        'default_hooks.checkpoint.save_optimizer=False',
        *options,
    ]
    paths = [str(measure.ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]  # this checkout's, whatever is installed
    begin, output = time.time(), folder / 'output.txt'
    with (
        output.open('w') as file,
        subprocess.Popen(
            [str(part) for part in command],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=dict(os.environ, PYTHONPATH=os.pathsep.join(paths)),
            pass_fds=[lock],
        ) as process,
    ):
        status = follow(process, output)
    said = output.read_text(errors='replace').strip()
    figures = {} if status else result(folder)
    diverged = DIVERGED.search(said)
    if not figures and not diverged:
        ended = f'signal {-status} ({signal.strsignal(-status)})' if status < 0 else f'exit status {status}'
        why = (said.splitlines() or ['it said nothing'])[-1] if status else 'its logs hold no result of an evaluation'
        raise RuntimeError(f'{ended}: {why}; all it said: {output}')
    figures = figures or dict.fromkeys(METRICS, 0.0) | dict(note=f'diverged: {diverged.group()}')
    epochs = Config.fromfile(folder / config.name, import_custom_modules=False).train_cfg.max_epochs
    return dict(figures, epochs=epochs, minutes=(time.time() - begin) / 60)


def follow(process: subprocess.Popen, log: Path) -> int:
    """Show the steps that a training logs until it ends, and give its exit status; it ends with us."""
    with tqdm(unit='step', leave=False, disable=None) as bar:
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=1)
                logged = () if bar.disable else STEP.findall(log.read_text(errors='replace'))
                if logged:
                    epoch, bar.n, bar.total = map(int, logged[-1])
                    bar.set_description(f'epoch {epoch}')
            return process.returncode
        except BaseException:
            process.kill()
            raise


def result(folder: Path) -> dict:
    """What the logs of a run say, with a note if its last loss is not finite; nothing if they hold no finite result.

    Raises:
        RuntimeError: if a line of them is broken.
    """
    try:
        logged = [
            json.loads(line)
            for path in folder.glob('*/vis_data/scalars.json')
            for line in path.read_text().splitlines()
        ]
    except ValueError as error:
        raise RuntimeError(f'a line of scalars.json in {folder} is broken: {error}') from None
    results = [[line.get(key, math.nan) for key in METRICS.values()] for line in logged]
    results = [figures for figures in results if all(map(math.isfinite, figures))]
    loss = next((line['loss'] for line in reversed(logged) if 'loss' in line), 0.0)
    note = '' if math.isfinite(loss) else f'diverged: the last loss is {loss}'
    return dict(zip(METRICS, results[-1]), note=note) if results else {}


def run_all(todo: list[tuple[str, int]], args: argparse.Namespace) -> int:
    """Do what is to be done as long as there is time; how many runs failed."""
    begin, failed, described, runs = time.time(), 0, environment(), args.out.with_suffix('')
    for i, (name, seed) in enumerate(todo):
        what, left = f'{name}, seed {seed}', len(todo) - i - 1
        with locked(runs / f'{name}_seed{seed}.lock') as lock:
            if lock is None:
                print(f'{what}, runs in another process: skipped', flush=True)
                continue
            rows = read(args.out)  # again: another process may have added to it
            if (name, seed) in map(key_of, rows):
                print(f'{what}, was done by another process', flush=True)
                continue
            longest = max((float(row['minutes']) for row in rows), default=0.0)
            if (time.time() - begin) / 60 + longest > args.max_hours * 60:
                print(
                    f'stopped: a run of {longest:.0f} minutes, the longest so far, would not end within --max-hours '
                    f'{args.max_hours:g}; {left + 1} left, the same command goes on'
                )
                break
            print(f'[{i + 1}/{len(todo)}] {what} …', flush=True)
            row = dict(
                name=name, seed=seed, options=' '.join(args.cfg_options), commit=commit(), config=config_hash(name)
            )
            try:
                refuse_other_configs([*rows, row])
                row.update(run(name, seed, runs / f'{name}_seed{seed}', args.cfg_options, lock))
            except (RuntimeError, ValueError) as error:
                failed += 1
                print(f'ablation: {what}, failed: {error}', flush=True)
                continue
            with locked(runs / 'csv.lock', wait=True):
                add(args.out, row, described)
        print(
            f'    mask AP {row["mask_ap"]:.3f}, APr {row["mask_apr"]:.3f}, {row["minutes"]:.1f} minutes; '
            f'{left} left, about {left * row["minutes"] / 60:.1f} hours',
            flush=True,
        )
        if row['note']:
            print(f'    {row["note"]}', flush=True)
    return failed


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[int | None]:
    """The descriptor of a file that is ours meanwhile, or None if another process has it.

    A process that inherits the descriptor keeps the file, even when this one is killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            descriptor = file.fileno()
        except BlockingIOError:
            descriptor = None
        yield descriptor


def commit() -> str:
    """Of this checkout, with a + if tracked files differ from it."""
    git = dict(
        cwd=measure.ROOT,
        capture_output=True,
        text=True,
        env=dict(os.environ, GIT_CEILING_DIRECTORIES=str(measure.ROOT.parent)),  # no repository around it
    )
    try:
        head = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], check=True, **git).stdout.strip()
        return head + '+' * subprocess.run(['git', 'diff', '--quiet', 'HEAD'], **git).returncode
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'


def config_hash(name: str) -> str:
    cfg = Config.fromfile(CONFIGS / f'{CONTENDERS[name].config}.py', import_custom_modules=False)
    return hashlib.sha256(cfg.pretty_text.encode()).hexdigest()[:7]


def environment() -> dict[str, str]:
    described = measure.environment(torch.device('cuda' if torch.cuda.is_available() else 'cpu'))
    described.pop('freed memory', None)  # of this process, which measures nothing
    return dict(described, mmdet=importlib.metadata.version('mmdet'))


def hours(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number above 0')
    return number


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--runs',
        nargs='+',
        choices=CONTENDERS,
        default=list(CONTENDERS),
        metavar='NAME',
        help=f'contenders: {", ".join(CONTENDERS)} (default: all)',
    )
    parser.add_argument('--seeds', nargs='+', type=measure.at_least(0), default=list(SEEDS), metavar='SEED')
    parser.add_argument(
        '--out',
        type=Path,
        metavar='CSV',
        default=measure.ROOT / f'work_dirs/benchmarks/ablation_{device}.csv',
        help='results; the runs lie beside it, in a folder of its name (default: %(default)s)',
    )
    parser.add_argument(
        '--max-hours',
        type=hours,
        default=math.inf,
        help='begin no run that would not end in this time (default: no limit)',
    )
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='handed on to tools/train.py')
    parser.add_argument(
        '--table',
        nargs='?',
        type=Path,
        const=PAGE,
        metavar='PAGE',
        help='run nothing, write the table of this page (default: docs/ablation.md)',
    )
    parser.add_argument(
        '--steps',
        type=Path,
        metavar='CSV',
        help=f'time and memory for the table (default: step_{device}.csv beside that of --out, if there is one)',
    )
    args = parser.parse_args(arguments)
    beside = args.out.with_name(f'step_{device}.csv')
    args.steps = args.steps or (beside if beside.exists() else None)
    return args


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    try:
        if args.table and not args.out.exists():
            raise FileNotFoundError(f'there are no results yet: {args.out} does not exist')
        rows = read(args.out)
        if args.table:
            write_table(markdown(rows, args.steps and read_steps(args.steps)), args.table)
            print(f'written: {args.table}')
            return 0
        if {row['options'] for row in rows} - {' '.join(args.cfg_options)}:
            raise ValueError(f'{args.out} holds runs with other --cfg-options; name another file with --out')
        done = set(map(key_of, rows))
        todo = [
            key
            for seed in dict.fromkeys(args.seeds)
            for name in dict.fromkeys(args.runs)
            if (key := (name, seed)) not in done
        ]
        print(f'{len(done)} runs are in {args.out}, {len(todo)} to do', flush=True)
        return int(run_all(todo, args) > 0)
    except (OSError, ValueError) as error:
        print(f'ablation: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('\ninterrupted: the same command goes on', file=sys.stderr)
        return 130


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else the run in progress would go on by itself
    sys.exit(main())

"""Compares activations, losses and calibrations: one network and budget, some seeds of each arm of a study.

    python tools/make_tiny_lvis.py && python tools/make_tiny_lvis.py data/tiny_lvis_1000 --val 1000     # once
    python benchmarks/ablation.py                     # the study tiny_lvis
    python benchmarks/ablation.py --study small_lvis --calibrations none fracal
    python benchmarks/ablation.py --arms apa-link acon --seeds 0 --jobs 2
    python benchmarks/step.py --study small_lvis      # time and memory of a step, on an idle machine
    python benchmarks/ablation_report.py              # tables and a figure of the results so far

``studies.py`` lists the studies. A run is a process of tools/train.py, on the shared initial weights of its seed, and
one of tools/test.py for each calibration, on more images than trainings are evaluated on; seed 0 of every arm comes
first. A row is appended to the CSV as a test ends; the same command skips the rows that are there and resumes what was
interrupted. A run that diverges counts: without a result its AP is 0, and ``note`` gives the reason. A run that fails
otherwise is reported and tried again by the next call. ``config`` is a hash of the arm, without ``options``;
a + after ``commit`` marks changes in tracked files. ``minutes`` include whatever else the machine did: time and memory
are measured by step.py.
"""

import argparse
import csv
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import measure
import torch
from mmengine.config import Config
from studies import STUDIES, Study, write_shared_weights

from apa_mmdet.apis.mmdet_tools import EXIT_DIVERGED
from apa_mmdet.utils import cli
from apa_mmdet.utils.errors import CodedError

RUNNING: set[subprocess.Popen] = set()  # tools in progress
METRICS = {
    'mask_ap': 'lvis/segm_AP',
    'mask_apr': 'lvis/segm_APr',
    'mask_apc': 'lvis/segm_APc',
    'mask_apf': 'lvis/segm_APf',
    'box_ap': 'lvis/bbox_AP',
}
COLUMNS = ('name', 'seed', 'calibration', 'epochs', *METRICS, 'minutes', 'options', 'commit', 'config', 'note')
SHOWN = 'mask_ap', 'mask_apr', 'minutes', 'note'


# The CSV: its columns, then the runs; lines with # before a run give the hardware and versions of those that follow


def read(path: Path) -> list[dict[str, str]]:
    """Reads the runs of a CSV, each with the hardware and versions that precede it.

    Raises:
        CodedError: ``other-columns``, ``cut-line``, or ``other-runs`` for runs that cannot be compared.
    """
    if not path.exists():
        return []
    if path.read_text(encoding='utf-8').partition('\n')[0] != ','.join(COLUMNS):
        line = f'{path} has other columns than this script writes; name another file with --out'
        raise CodedError('other-columns', line)
    rows = measure.read_results(path)
    refuse_mixed(rows)
    return rows


def refuse_mixed(rows: list[dict[str, str]]) -> None:
    """Raises ``other-runs`` if runs cannot be compared: other epochs or options, or an arm's config has changed."""
    groups = {column: {row[column] for row in rows if column in row} for column in ('epochs', 'options')}
    names = dict.fromkeys(row['name'] for row in rows)
    groups |= {f'configs of {name}': {row['config'] for row in rows if row['name'] == name} for name in names}
    for what, values in groups.items():
        if len(values) > 1:
            values = ', '.join(map(repr, sorted(values)))
            line = f'runs with different {what} cannot be compared: {values}; name another file with --out'
            raise CodedError('other-runs', line)


def append(path: Path, row: dict, conditions: dict[str, str]) -> None:
    """Appends a run, below the conditions where there are any."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('a', newline='', encoding='utf-8') as file:
        writer = csv.writer(file, lineterminator='\n')
        if not file.tell():
            writer.writerow(COLUMNS)
        file.writelines(f'# {key}: {text}\n' for key, text in conditions.items())
        writer.writerow([measure.cell(row[column]) for column in COLUMNS])


# Runs


def planned(study: Study, name: str, seed: int, calibration: str, options: list[str]) -> dict:
    """Returns the columns of a run that are known before it."""
    cfg = Config.fromfile(study.config(name), import_custom_modules=False)
    text = '\n'.join([cfg.pretty_text, *study.arms[name].options])
    config = hashlib.sha256(text.encode()).hexdigest()[:7]
    return dict(name=name, seed=seed, calibration=calibration, options=' '.join(options), config=config)


def train(study: Study, name: str, seed: int, folder: Path, options: list[str]) -> str:
    """Trains an arm, from where it was interrupted if it was; returns why it diverged, if it did.

    Raises:
        RuntimeError: if the tool fails.
    """
    shared = folder / 'shared_weights.pth'
    if not shared.exists():
        measure.in_a_process(write_shared_weights, study, name, seed, shared)
    without_evaluation = ['val_cfg=None', 'val_dataloader=None', 'val_evaluator=None']
    overrides = [f'randomness.seed={seed}', f'load_from={shared}', *without_evaluation, *options]
    return run_tool('train.py', study.config(name), '--work-dir', folder, '--resume', '--cfg-options', *overrides)


def test(study: Study, name: str, calibration: str, folder: Path, options: list[str]) -> dict:
    """Tests what was trained in ``folder``; returns the figures.

    Raises:
        RuntimeError: if the tool fails.
    """
    work_dir = folder / f'test_{calibration}'
    shutil.rmtree(work_dir, ignore_errors=True)  # of a test that was interrupted
    arguments = [(folder / 'last_checkpoint').read_text(), '--work-dir', work_dir, '--out', work_dir / 'results.pkl']
    overrides = [*study.test_options(name, calibration), *options]
    run_tool('test.py', study.config(name), *arguments, '--cfg-options', *overrides)
    return result(work_dir)


def run_tool(name: str, config: Path, *arguments: str | Path) -> str:
    """Runs a tool with one thread, its output in a file of the work dir; returns why it diverged, if it did.

    Raises:
        RuntimeError: if it fails otherwise.
    """
    arguments = [str(argument) for argument in arguments]
    folder = Path(arguments[arguments.index('--work-dir') + 1])
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / 'output.txt'
    path = os.pathsep.join(filter(None, [str(measure.ROOT), os.environ.get('PYTHONPATH')]))
    environment = dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS='1')
    command = [sys.executable, measure.ROOT / 'tools' / name, config, *arguments]
    with (
        log.open('a') as file,
        subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment) as tool,
    ):
        RUNNING.add(tool)
        status = tool.wait()
        RUNNING.remove(tool)
    last = (log.read_text(errors='replace').strip().splitlines() or ['no output'])[-1]
    if status not in (0, EXIT_DIVERGED):
        raise RuntimeError(f'{name}: exit status {status}: {last}; its output is in {log}')
    return last if status else ''


def result(folder: Path) -> dict:
    """Reads the figures of a test; one that found no objects logs none, and has AP 0."""
    (path,) = folder.glob('*/*.json')
    found = json.loads(path.read_text())
    if not set(METRICS.values()) <= set(found):
        return dict.fromkeys(METRICS, 0.0) | dict(note='diverged: the evaluation gave no result')
    return {column: found[key] for column, key in METRICS.items()} | dict(note='')


def run_all(study: Study, todo: list[list[dict]], out: Path, options: list[str], jobs: int) -> int:
    """Runs what is planned, ``jobs`` trainings at a time, each with its calibrations; returns how many runs failed."""
    conditions, lock = measure.environment('cuda' if torch.cuda.is_available() else 'cpu'), Lock()
    # this checkout, with a + if tracked files differ from its commit
    git = ['git', 'describe', '--always', '--exclude=*', '--dirty=+']
    commit = subprocess.run(git, cwd=measure.ROOT, capture_output=True, text=True).stdout.strip() or 'unknown'

    def train_and_test(rows: list[dict]) -> int:
        name, seed = rows[0]['name'], rows[0]['seed']
        folder = out.with_suffix('') / f'{name}_seed{seed}'
        own_options = [*study.arms[name].options, *options]
        start, left = time.time(), len(rows)
        print(f'{name}, seed {seed} …', flush=True)
        try:
            diverged = train(study, name, seed, folder, own_options)
            epochs = Config.fromfile(folder / study.config(name).name, import_custom_modules=False).train_cfg.max_epochs
            for row in rows:
                figures = dict.fromkeys(METRICS, 0.0) | dict(note=f'diverged: {diverged}')
                if not diverged:
                    figures = test(study, name, row['calibration'], folder, own_options)
                row |= dict(figures, epochs=epochs, minutes=(time.time() - start) / 60, commit=commit)
                with lock:
                    append(out, row, conditions)
                    conditions.clear()
                left -= 1
                shown = ', '.join(f'{key} {measure.cell(row[key])}' for key in SHOWN)
                print(f'    {name_of(row)}: {shown}', flush=True)
        except RuntimeError as error:
            print(f'ablation: {name_of(rows[-left])}: {error}', flush=True)
        return left

    with ThreadPoolExecutor(jobs) as pool:
        try:
            return sum(pool.map(train_and_test, todo))
        except BaseException:  # interrupted: nothing is begun, and what runs would outlive this process
            pool.shutdown(wait=False, cancel_futures=True)
            for tool in list(RUNNING):
                tool.terminate()
            raise


def name_of(row: dict) -> str:
    return f'{row["name"]}, seed {row["seed"]}' + f', {row["calibration"]}' * (row['calibration'] != 'none')


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--study', choices=STUDIES, default='tiny_lvis', help='default: %(default)s')
    parser.add_argument('--arms', nargs='+', help='default: all of the study')
    parser.add_argument('--seeds', nargs='+', type=measure.at_least(0), metavar='SEED', help="default: the study's")
    text = 'of the scores at test time: none, fracal (default: none)'
    parser.add_argument('--calibrations', nargs='+', default=['none'], help=text)
    parser.add_argument('--jobs', type=measure.at_least(1), default=1, help='trainings at a time, of one thread each')
    text = 'results; work dirs are in a folder of its name beside it (default: in work_dirs/benchmarks)'
    parser.add_argument('--out', type=Path, metavar='CSV', help=text)
    text = 'passed to tools/train.py and tools/test.py'
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help=text)
    args = parser.parse_args(arguments)
    study = STUDIES[args.study]
    args.arms, args.seeds = args.arms or list(study.arms), args.seeds or list(study.seeds)
    for given, known in ((args.arms, study.arms), (args.calibrations, study.calibrations)):
        if unknown := [name for name in given if name not in known]:
            parser.error(f'{args.study} has no {", ".join(unknown)}; it has {", ".join(known)}')
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    args.out = args.out or measure.ROOT / f'work_dirs/benchmarks/ablation_{args.study}_{device}.csv'
    return args


def main(arguments: list[str] | None = None) -> str | None:
    args = parse_args(arguments)
    study, rows = STUDIES[args.study], read(args.out)
    done = {(row['name'], int(row['seed']), row['calibration']) for row in rows}
    todo = []
    for seed in dict.fromkeys(args.seeds):
        for name in dict.fromkeys(args.arms):
            left = [kind for kind in dict.fromkeys(args.calibrations) if (name, seed, kind) not in done]
            if left:
                todo.append([planned(study, name, seed, kind, args.cfg_options) for kind in left])
    refuse_mixed([*rows, *itertools.chain(*todo)])
    print(f'{len(done)} results are in {args.out}, {sum(map(len, todo))} to come', flush=True)
    failed = run_all(study, todo, args.out, args.cfg_options, args.jobs)
    return f'{failed} runs failed; the same command tries them again' if failed else None


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as by Ctrl-C
    cli.run(main)

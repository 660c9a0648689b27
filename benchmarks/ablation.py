"""Compares activations and losses on tiny LVIS: seven configs of one network, one budget, three seeds each.

    python tools/make_tiny_lvis.py          # the data, once
    python benchmarks/ablation.py           # about four hours on two cores
    python benchmarks/ablation.py --runs apa-gol acon --seeds 0
    python benchmarks/step.py               # time and memory of a step, on an idle machine
    python benchmarks/ablation.py --table   # writes the results so far into docs/ablation.md

Each run is a process of tools/train.py; seed 0 of every config comes first. A row is appended to the CSV as a run ends,
and the same command skips the runs that are there. A run that diverges counts: without a result its AP is 0, and
``note`` gives the reason. A run that fails otherwise is reported and tried again by the next call. ``config`` is a hash
of the parsed config without ``options``; a + after ``commit`` marks changes in tracked files. ``minutes`` include
whatever else the machine did: time and memory are measured by step.py.
"""

import argparse
import csv
import hashlib
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import measure
import torch
from mmengine.config import Config

from apa_mmdet.apis.mmdet_tools import EXIT_DIVERGED
from apa_mmdet.utils import cli

CONFIGS = measure.ROOT / 'configs/tiny_lvis'
PAGE = measure.ROOT / 'docs/ablation.md'
BEGIN, END = '<!-- written by benchmarks/ablation.py --table -->', '<!-- end of the table -->'
# config, activation, gate, loss
CONTENDERS = {
    'relu-softmax': ('mask_rcnn_se_r18_relu_softmax', 'ReLU', 'sigmoid', 'softmax CE'),
    'relu-gol': ('mask_rcnn_se_r18_relu_gol', 'ReLU', 'sigmoid', 'GOL'),
    'apa-softmax': ('mask_rcnn_se_r18_apa_softmax', 'AGLU', 'APA', 'softmax CE'),
    'apa-gol': ('mask_rcnn_se_r18_apa', 'AGLU', 'APA', 'GOL'),
    'acon': ('mask_rcnn_se_r18_acon', 'ACON-C', 'sigmoid', 'GOL'),
    'meta-acon': ('mask_rcnn_se_r18_meta-acon', 'Meta-ACON', 'sigmoid', 'GOL'),
    'apalu': ('mask_rcnn_se_r18_apalu', 'APALU', 'sigmoid', 'GOL'),
}
SEEDS = (0, 1, 2)
METRICS = {
    'mask_ap': 'lvis/segm_AP',
    'mask_apr': 'lvis/segm_APr',
    'mask_apc': 'lvis/segm_APc',
    'mask_apf': 'lvis/segm_APf',
    'box_ap': 'lvis/bbox_AP',
}
COLUMNS = ('name', 'seed', 'epochs', *METRICS, 'minutes', 'options', 'commit', 'config', 'note')
HEAD = (
    'activation | gate | loss | seeds | mask AP | APr | APc | APf | '
    'ms a step (middle half) | ratio | memory of a step, MiB'
)


def config_of(name: str) -> Path:
    return CONFIGS / f'{CONTENDERS[name][0]}.py'


# The CSV: its columns, then the runs; lines with # before a run give the hardware and versions of those that follow


def read(path: Path) -> list[dict[str, str]]:
    """Reads the runs of a CSV, each with the hardware and versions that precede it.

    Raises:
        ValueError: for other columns, a line that was cut off, or runs that cannot be compared.
    """
    if not path.exists():
        return []
    if path.read_text(encoding='utf-8').partition('\n')[0] != ','.join(COLUMNS):
        raise ValueError(f'{path} has other columns than this script writes; name another file with --out')
    rows = measure.read_results(path)
    refuse_mixed(rows)
    return rows


def refuse_mixed(rows: list[dict[str, str]]) -> None:
    """Raises ValueError if runs cannot be compared: other epochs or options, or one contender's config has changed."""
    groups = {column: {row[column] for row in rows if column in row} for column in ('epochs', 'options')}
    groups |= {f'configs of {name}': {row['config'] for row in rows if row['name'] == name} for name in CONTENDERS}
    for what, values in groups.items():
        if len(values) > 1:
            values = ', '.join(map(repr, sorted(values)))
            raise ValueError(f'runs with different {what} cannot be compared: {values}; name another file with --out')


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


def planned(name: str, seed: int, options: list[str]) -> dict:
    """Returns the columns of a run that are known before it."""
    cfg = Config.fromfile(config_of(name), import_custom_modules=False)
    config = hashlib.sha256(cfg.pretty_text.encode()).hexdigest()[:7]
    return dict(name=name, seed=seed, options=' '.join(options), config=config)


def run(name: str, seed: int, folder: Path, options: list[str]) -> dict:
    """Trains and evaluates one contender; returns the other columns.

    Raises:
        RuntimeError: if the run fails.
    """
    config, log, start = config_of(name), folder / 'output.txt', time.time()
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was interrupted
    folder.mkdir(parents=True)
    command = [sys.executable, str(measure.ROOT / 'tools/train.py'), str(config), '--work-dir', str(folder)]
    command += ['--cfg-options', f'randomness.seed={seed}', 'default_hooks.checkpoint.save_optimizer=False', *options]
    path = os.pathsep.join(filter(None, [str(measure.ROOT), os.environ.get('PYTHONPATH')]))
    with log.open('w') as file:
        status = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env=dict(os.environ, PYTHONPATH=path)
        ).returncode
    last = (log.read_text(errors='replace').strip().splitlines() or ['no output'])[-1]
    if status not in (0, EXIT_DIVERGED):
        raise RuntimeError(f'exit status {status}: {last}; its output is in {log}')
    figures = result(folder) if status == 0 else dict.fromkeys(METRICS, 0.0) | dict(note=f'diverged: {last}')
    epochs = Config.fromfile(folder / config.name, import_custom_modules=False).train_cfg.max_epochs
    # this checkout, with a + if tracked files differ from its commit
    git = ['git', 'describe', '--always', '--exclude=*', '--dirty=+']
    commit = subprocess.run(git, cwd=measure.ROOT, capture_output=True, text=True).stdout.strip() or 'unknown'
    return dict(figures, epochs=epochs, minutes=(time.time() - start) / 60, commit=commit)


def result(folder: Path) -> dict:
    """Reads the last evaluation that a run logged; one that found no objects logs no figures, and has AP 0."""
    logs = sorted(folder.glob('*/vis_data/scalars.json'))
    rows = [json.loads(line) for path in logs for line in path.read_text().splitlines()]
    evaluations = [row for row in rows if set(METRICS.values()) <= set(row)]
    if not evaluations:
        return dict.fromkeys(METRICS, 0.0) | dict(note='diverged: the evaluation gave no result')
    loss = next((row['loss'] for row in reversed(rows) if 'loss' in row), 0.0)
    note = '' if math.isfinite(loss) else f'diverged: the last loss is {loss}'
    return {column: evaluations[-1][key] for column, key in METRICS.items()} | dict(note=note)


def run_all(todo: list[dict], out: Path, options: list[str]) -> int:
    """Runs what is planned; returns the number of runs that failed."""
    conditions, failed = measure.environment('cuda' if torch.cuda.is_available() else 'cpu'), 0
    for i, row in enumerate(todo, 1):
        run_name = f'{row["name"]}, seed {row["seed"]}'
        print(f'[{i}/{len(todo)}] {run_name} …', flush=True)
        try:
            folder = out.with_suffix('') / f'{row["name"]}_seed{row["seed"]}'
            row |= run(row['name'], row['seed'], folder, options)
        except RuntimeError as error:
            failed += 1
            print(f'ablation: {run_name}: {error}', flush=True)
            continue
        append(out, row, conditions)
        conditions = {}
        shown = ', '.join(f'{key} {measure.cell(row[key])}' for key in ('mask_ap', 'mask_apr', 'minutes', 'note'))
        print(f'    {shown}', flush=True)
    return failed


# The table


def markdown(rows: list[dict[str, str]], steps: list[dict[str, str]]) -> str:
    """Formats the table with the conditions of its figures below it."""
    rows = [row for row in rows if int(row['seed']) in SEEDS]
    lines = [f'| {HEAD} |', '|---' * len(HEAD.split(' | ')) + '|']
    for name, (config, *labels) in CONTENDERS.items():
        runs = [row for row in rows if row['name'] == name]
        cells = [*labels, str(len(runs))]
        cells += [mean_and_deviation([float(row[key]) for row in runs]) for key in list(METRICS)[:4]]
        step = next((step_cells(row) for row in steps if row['config'] == config), '–––')
        lines.append(f'| {" | ".join([*cells, *step])} |')
    whole = len(CONTENDERS) * len(SEEDS)
    notes = [f'All {whole} runs.' if len(rows) == whole else f'{len(rows)} of {whole} runs so far.']
    diverged = [f'{row["name"]}, seed {row["seed"]}' for row in rows if row['note']]
    if diverged:
        notes.append(f'Diverged, and counted with the AP that they reached, mostly 0: {"; ".join(diverged)}.')
    if rows:
        options, dates = rows[0]['options'], sorted({row['date'].split()[0] for row in rows})
        commits = ', '.join(dict.fromkeys(row['commit'] for row in rows))
        with_options, dates = f', with `{options}`' * bool(options), ' to '.join(dict.fromkeys([dates[0], dates[-1]]))
        notes.append(f'AP: {rows[0]["epochs"]} epochs each{with_options}; {dates}; commit {commits}.')
    machine = '{hardware}; Python {python}, PyTorch {torch}, MMDetection {mmdet}.'
    notes += dict.fromkeys(machine.format(**row) for row in rows)
    if steps:
        text = 'Time and memory of a step: `{command}`, {date:.10}; ratios are to its first config.\n'
        notes.append((text + machine).format(**steps[0]))
    return '\n'.join([*lines, '', *notes])


def mean_and_deviation(values: list[float]) -> str:
    """Mean ± standard deviation of the sample; NaN, and −1 of older runs, where there is nothing to average."""
    if not values or not all(value >= 0 for value in values):
        return '–'
    return f'{statistics.mean(values):.3f}' + (f' ± {statistics.stdev(values):.3f}' if len(values) > 1 else '')


def step_cells(row: dict[str, str]) -> list[str]:
    columns = ('step_ms', 'step_ms_low', 'step_ms_high', 'to_first', 'peak_bytes')
    median, low, high, ratio, peak = (float(row[column]) for column in columns)
    return [f'{median:.0f} ({low:.0f}–{high:.0f})', f'{ratio:.2f}', f'{peak / measure.MIB:.0f}']


def write_table(table: str, page: Path) -> None:
    """Replaces the table between its two marks on a page."""
    before, begin, rest = page.read_text(encoding='utf-8').partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f'{page} has no place for the table: it needs the lines {BEGIN} and {END}')
    page.write_text(f'{before}{begin}\n{table}\n{end}{after}', encoding='utf-8')


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    out = measure.ROOT / f'work_dirs/benchmarks/ablation_{"cuda" if torch.cuda.is_available() else "cpu"}.csv'
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--runs', nargs='+', choices=CONTENDERS, default=list(CONTENDERS), help='default: all')
    parser.add_argument('--seeds', nargs='+', type=measure.at_least(0), default=list(SEEDS), metavar='SEED')
    text = 'results; work dirs are in a folder of its name beside it (default: %(default)s)'
    parser.add_argument('--out', type=Path, metavar='CSV', default=out, help=text)
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='passed to tools/train.py')
    text = 'write the table of a page, run nothing'
    parser.add_argument('--table', nargs='?', type=Path, const=PAGE, metavar='PAGE', help=text)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> str | None:
    args = parse_args(arguments)
    rows = read(args.out)
    if args.table:
        steps = args.out.with_name(args.out.name.replace('ablation', 'step'))
        write_table(markdown(rows, measure.read_results(steps) if steps.exists() else []), args.table)
        print(f'written: {args.table}')
        return None
    done = {(row['name'], int(row['seed'])) for row in rows}
    keys = [(name, seed) for seed in dict.fromkeys(args.seeds) for name in dict.fromkeys(args.runs)]
    todo = [planned(*key, args.cfg_options) for key in keys if key not in done]
    refuse_mixed([*rows, *todo])
    print(f'{len(done)} runs are in {args.out}, {len(todo)} to do', flush=True)
    failed = run_all(todo, args.out, args.cfg_options)
    return f'{failed} runs failed; the same command tries them again' if failed else None


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else the run in progress would outlive this process
    cli.run(main)

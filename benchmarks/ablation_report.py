"""Reports what ablation.py has found so far: tables of a page, and a figure of what each arm gives and costs.

    python benchmarks/ablation_report.py                         # of the recorded results, into docs/ablation.md
    python benchmarks/ablation_report.py --study small_lvis --compare --results work_dirs/benchmarks

``ablation_STUDY_DEVICE.csv`` in the folder of results holds the runs, ``differences_…`` the differences of pairs of
arms, ``step_…`` time and memory of a step, written by step.py. ``--compare`` writes the second from the predictions
that the runs left beside the first: paired over images and over the seeds that both arms of a pair have.
"""

import argparse
import itertools
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import ablation
import measure
import numpy as np
from studies import STUDIES, Run, Study

from apa_mmdet.apis.compare_results import resample_results
from apa_mmdet.evaluation.functional.paired_difference import paired_difference
from apa_mmdet.utils import cli
from apa_mmdet.utils.errors import CodedError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGE = measure.ROOT / 'docs/ablation.md'
BEGIN, END = '<!-- {}: written by benchmarks/ablation_report.py -->', '<!-- end of the tables -->'
HEAD = (
    'weights | activation | gate | loss | calibration | seeds | mask AP | APr | APc | APf | '
    'ms a step (middle half) | ratio | memory of a step, MiB'
)
GROUPS = dict(AP='mask_ap', APr='mask_apr', APc='mask_apc', APf='mask_apf')
Key = tuple[Run, str]  # a run and its seed


# Differences


def compare(study: Study, rows: list[dict[str, str]], folder: Path, table: measure.Table) -> None:
    """Adds a row for each pair of arms that have seeds in common, and each of AP, APr, APc and APf."""
    runs = {(Run(row['name'], row['calibration']), row['seed']): row for row in rows}
    pairs = [(a, b, [seed for run, seed in runs if run == a and (b, seed) in runs]) for a, b in study.pairs()]
    paths = {
        (run, seed): folder / f'{run.arm}_seed{seed}' / f'test_{run.calibration}' / 'results.pkl'
        for a, b, seeds in pairs
        for seed in seeds
        for run in (a, b)
        if not runs[run, seed]['note']
    }
    if not paths:
        raise CodedError(
            'nothing-to-compare', f'{folder}: no two arms to compare have a seed in common that gave predictions'
        )
    options = dict(option.split('=', 1) for option in study.test_options(study.reference, 'none'))
    _, found = resample_results(
        str(study.config(study.reference)), paths.values(), cfg_options={**options, 'test_evaluator.metric': ['segm']}
    )
    for row in differences(pairs, runs, {key: found[path] for key, path in paths.items()}):
        table.add(**row)


def differences(
    pairs: list[tuple[Run, Run, list[str]]], runs: dict[Key, dict], resampled: dict[Key, dict[str, np.ndarray]]
) -> Iterator[dict[str, str | float]]:
    """Yields the rows of pairs with their seeds, from the APs of each run on all images and on samples of them.

    A run that diverged left no predictions: in every sample it counts with the AP in its row, as in
    :func:`runs_table`. Without its seed the intervals would be those of the runs that went well.
    """
    lengths = {len(values) for groups in resampled.values() for values in groups.values()}

    def values_of(run: Run, seed: str, group: str) -> np.ndarray:
        known = resampled.get((run, seed))
        return known[f'segm_{group}'] if known else np.full(*lengths, float(runs[run, seed][GROUPS[group]]))

    for a, b, seeds in pairs:
        for group in GROUPS if seeds else ():
            values = [np.stack([values_of(run, seed, group) for seed in seeds]) for run in (a, b)]
            difference = paired_difference(*values, np.random.default_rng(0))
            row = dict(a=str(a), b=str(b), seeds=' '.join(seeds), group=group)
            row |= dict(a_value=values[0][:, 0].mean(), b_value=values[1][:, 0].mean(), difference=difference.value)
            row |= dict(low=difference.low, high=difference.high)
            yield dict(**row, smallest=difference.smallest(), unpaired=difference.smallest(paired=False))


# Tables


def runs_table(study: Study, rows: list[dict[str, str]], steps: list[dict[str, str]]) -> str:
    """Formats mean and deviation of each arm, with the conditions of the figures below."""
    rows = [row for row in rows if int(row['seed']) in study.seeds]
    lines = [f'| {HEAD} |', '|---' * len(HEAD.split(' | ')) + '|']
    for name, arm in study.arms.items():
        step = next((step_cells(row) for row in steps if row['config'] == arm.config), '–––')
        for calibration in study.calibrations:
            runs = [row for row in rows if (row['name'], row['calibration']) == (name, calibration)]
            if runs:
                cells = [arm.weights, arm.activation, arm.gate, arm.loss, calibration, str(len(runs))]
                cells += [mean_and_deviation([float(row[key]) for row in runs]) for key in GROUPS.values()]
                lines.append(f'| {" | ".join([*cells, *step])} |')
    notes = []
    diverged = [ablation.name_of(row) for row in rows if row['note']]
    if diverged:
        text = 'Diverged, and counted with the AP that they reached, mostly 0, in the differences too: '
        notes.append(f'{text}{"; ".join(diverged)}.')
    if rows:
        options, dates = rows[0]['options'], sorted({row['date'].split()[0] for row in rows})
        commits = ', '.join(dict.fromkeys(row['commit'] for row in rows))
        with_options, dates = f', with `{options}`' * bool(options), ' to '.join(dict.fromkeys([dates[0], dates[-1]]))
        epochs = f'{rows[0]["epochs"]} epoch' + 's' * (rows[0]['epochs'] != '1')
        notes.append(f'AP: {epochs} each{with_options}; {dates}; commit {commits}.')
    machine = '{hardware}; Python {python}, PyTorch {torch}, MMDetection {mmdet}.'
    notes += dict.fromkeys(machine.format(**row) for row in rows)
    if steps:
        text = 'Time and memory of a step, of the config of an arm: `{command}`, {date:.10}; ratios are to its first.\n'
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


def differences_table(study: Study, rows: list[dict[str, str]]) -> str:
    """Formats the differences of the pairs of arms, with 95% intervals."""
    lines = [f'| A | B | seeds | B − A: {" | ".join(GROUPS)} |', '|---' * (3 + len(GROUPS)) + '|']
    for (a, b), groups in itertools.groupby(rows, key=lambda row: (row['a'], row['b'])):
        first, *others = groups
        cells = [study.label(Run.parse(a)), study.label(Run.parse(b)), str(len(first['seeds'].split()))]
        for row in (first, *others):
            value, low, high = (f'{float(row[key]):+.3f}' for key in ('difference', 'low', 'high'))
            cells.append(f'{value} ({low} … {high})')
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines).replace('-0.', '−0.')


def write_between_marks(study: str, text: str, page: Path) -> None:
    """Replaces what is between the marks of a study on a page."""
    first = BEGIN.format(study)
    before, begin, rest = page.read_text(encoding='utf-8').partition(first)
    _, end, after = rest.partition(END)
    if not end:
        raise CodedError('no-marks', f'{page} has no place for the tables: it needs the lines {first} and {END}')
    page.write_text(f'{before}{begin}\n{text}\n{end}{after}', encoding='utf-8')


# The figure


def draw(study: Study, differences: list[dict[str, str]], steps: list[dict[str, str]], path: Path) -> None:
    """Draws, for each arm, the differences of AP and APr from the baseline and, if known, its time of a step."""
    from matplotlib.figure import Figure

    rows = [row for row in differences if row['a'] == str(study.baseline)]
    runs = [Run.parse(name) for name in dict.fromkeys(row['b'] for row in rows)]
    figure = Figure((10, 1.6 + 0.28 * len(runs)), layout='constrained')
    axes = figure.subplots(1, 3 if steps else 2, sharey=True)
    for axis, group in zip(axes, ('AP', 'APr')):
        draw_differences(axis, group, [row for row in rows if row['group'] == group])
    if steps:
        draw_times(axes[2], study, runs, steps)
    for axis, baseline in zip(axes, (0, 0, 1)):
        axis.axvline(baseline, color='black', linestyle='--', linewidth=0.8)
        axis.tick_params(labelsize=8)
    axes[0].set_yticks(range(len(runs)), [study.label(run) for run in runs], fontsize=8)
    axes[0].invert_yaxis()
    of_times = '; time: median and middle half of the samples' if steps else ''
    figure.suptitle(
        f'{study.folder}: differences from {study.label(study.baseline)}, 95% intervals, paired by image and seed\n'
        f'(hollow: one seed, intervals over images only){of_times}',
        fontsize=9,
    )
    figure.savefig(path, dpi=130)


def draw_differences(axis: 'Axes', group: str, rows: list[dict[str, str]]) -> None:
    for place, row in enumerate(rows):
        value, low, high = (float(row[key]) for key in ('difference', 'low', 'high'))
        color = 'C0' if Run.parse(row['b']).calibration == 'none' else 'C1'
        face = 'white' if len(row['seeds'].split()) == 1 else color
        ends = [[value - low], [high - value]]
        axis.errorbar(value, place, xerr=ends, fmt='o', mfc=face, color=color, capsize=2, linewidth=1)
    axis.locator_params(axis='x', nbins=5)
    axis.set_title(f'mask {group}, difference', fontsize=9)


def draw_times(axis: 'Axes', study: Study, runs: list[Run], steps: list[dict[str, str]]) -> None:
    columns = ('step_ms', 'step_ms_low', 'step_ms_high')
    milliseconds = {row['config']: [float(row[column]) for column in columns] for row in steps}
    baseline = milliseconds.get(study.arms[study.baseline.arm].config)
    for place, run in enumerate(runs):
        found = milliseconds.get(study.arms[run.arm].config)
        if baseline and found:
            middle, low, high = (value / baseline[0] for value in found)
            ends = [[middle - low], [high - middle]]
            axis.barh(place, middle, 0.6, xerr=ends, color='C7', error_kw=dict(linewidth=1))
    axis.set_title('time of a training step, relative', fontsize=9)


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--study', choices=STUDIES, default='tiny_lvis', help='default: %(default)s')
    text = 'folder of the results (default: %(default)s)'
    parser.add_argument('--results', type=Path, metavar='DIR', default=measure.ROOT / 'benchmarks/results', help=text)
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu', help='of the runs (default: %(default)s)')
    parser.add_argument('--compare', action='store_true', help='compute the differences first')
    parser.add_argument(
        '--page', type=Path, default=PAGE, help='that has a place for the tables (default: %(default)s)'
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse_args(arguments)
    study = STUDIES[args.study]
    runs, differences, steps = (
        args.results / f'{kind}_{args.study}_{args.device}.csv' for kind in ('ablation', 'differences', 'step')
    )
    rows = ablation.read(runs)
    if args.compare:
        shown = 'a b seeds group difference low high'
        compare(study, rows, runs.with_suffix(''), measure.Table(differences, measure.environment(args.device), shown))
    found, times = (measure.read_results(path) if path.exists() else [] for path in (differences, steps))
    text = runs_table(study, rows, times)
    if found:
        picture = args.page.with_name(f'ablation_{args.study}.png')
        draw(study, found, times, picture)
        image = f'![differences of the arms{", and time of a step" * bool(times)}]({picture.name})'
        text = f'{image}\n\n{text}\n\n{differences_table(study, found)}'
    write_between_marks(args.study, text, args.page)
    print(f'written: {args.page}')


if __name__ == '__main__':
    cli.run(main)

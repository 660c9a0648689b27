"""What the ablation compares, the CSV of its runs, and the table that is made of them."""

import csv
import io
import math
import os
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import measure

CONFIGS = measure.ROOT / 'configs/tiny_lvis'
BEGIN, END = '<!-- written by benchmarks/ablation.py --table -->', '<!-- end of the table -->'


class Contender(NamedTuple):
    config: str
    activation: str
    gate: str
    loss: str


CONTENDERS: dict[str, Contender] = {
    'relu-softmax': Contender('mask_rcnn_se_r18_relu_softmax', 'ReLU', 'sigmoid', 'softmax CE'),
    'relu-gol': Contender('mask_rcnn_se_r18_relu_gol', 'ReLU', 'sigmoid', 'GOL'),
    'apa-softmax': Contender('mask_rcnn_se_r18_apa_softmax', 'AGLU', 'APA', 'softmax CE'),
    'apa-gol': Contender('mask_rcnn_se_r18_apa', 'AGLU', 'APA', 'GOL'),
    'acon': Contender('mask_rcnn_se_r18_acon', 'ACON-C', 'sigmoid', 'GOL'),
    'meta-acon': Contender('mask_rcnn_se_r18_meta-acon', 'Meta-ACON', 'sigmoid', 'GOL'),
    'apalu': Contender('mask_rcnn_se_r18_apalu', 'APALU', 'sigmoid', 'GOL'),
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
SAID = ('date', 'hardware', 'python', 'torch', 'mmdet')  # what has to be known of where something ran
STEP_COLUMNS = ('step_ms', 'step_ms_low', 'step_ms_high', 'to_first', 'peak_bytes')

Row = dict[str, str]


# The CSV of the runs: its head, then before a run the lines with # that say where it ran, unless the one before did so


def read(path: Path) -> list[Row]:
    """The runs of a CSV, each with what was said (hardware, torch …) before it; none if there is no file.

    A last line that was cut off is left out.

    Raises:
        ValueError: for other columns, and for a line that is no run of a contender, or one that was there before.
    """
    lines = _whole_lines(path)
    if lines and lines[0] != ','.join(COLUMNS):
        raise ValueError(f'{path} has other columns than this script writes; name another file with --out')
    rows, said, within = {}, {}, False
    for number, line in enumerate(lines[1:], 2):
        if line.startswith('#'):
            key, colon, text = line[1:].strip().partition(': ')
            said = {**(said if within else {}), key: text} if colon else said
            within = within or bool(colon)
        elif line:
            cells, within = next(csv.reader([line])), False
            row = {**said, **dict(zip(COLUMNS, cells))}
            problem = _problem(cells, row)
            key = problem or key_of(row)
            if problem or key in rows:
                raise ValueError(f'{path}, line {number}, cannot be counted: {problem or "this run is there already"}')
            rows[key] = row
    return list(rows.values())


def add(path: Path, row: dict, described: dict[str, str]) -> None:
    """Add a run, of which ``described`` says where it ran; the file is replaced as a whole."""
    rows, lines = read(path), _whole_lines(path) or [','.join(COLUMNS)]
    if not rows or any(rows[-1].get(key) != text for key, text in described.items()):
        lines += [f'# {key}: {text}' for key, text in described.items()]
    line = io.StringIO()
    cells = (row[column] for column in COLUMNS)
    csv.writer(line, lineterminator='').writerow([f'{x:.5g}' if isinstance(x, float) else x for x in cells])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.name}')
    temporary.write_text('\n'.join([*lines, line.getvalue(), '']), encoding='utf-8')
    os.replace(temporary, path)


def key_of(row: Row) -> tuple[str, int]:
    """What a run is known by: name and seed."""
    return row['name'], int(row['seed'])


def _whole_lines(path: Path) -> list[str]:
    content = path.read_bytes() if path.exists() else b''
    return content[: content.rfind(b'\n') + 1].decode('utf-8').splitlines()


def _problem(cells: list[str], row: Row) -> str:
    """What is wrong with a line, if anything is."""
    if len(cells) != len(COLUMNS):
        return f'it has {len(cells)} cells instead of {len(COLUMNS)}'
    if missing(row, SAID):
        return f'no line with # above it says its {missing(row, SAID)}'
    if row['name'] not in CONTENDERS:
        return f'there is no contender {row["name"]!r}, only {", ".join(CONTENDERS)}'
    for column in ('seed', 'epochs'):
        if not row[column].isdecimal():
            return f'{column} is {row[column]!r}, no whole number'
    for column in (*METRICS, 'minutes'):
        try:
            number = float(row[column])
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            return f'{column} is {row[column]!r}, no finite number'
    return ''


def missing(row: Row, keys: Iterable[str]) -> str:
    """The first of the keys that it does not have."""
    return next((key for key in keys if row.get(key) is None), '')


def refuse_other_configs(rows: Iterable[Row]) -> None:
    """Raise ValueError if runs of one contender are of different configs."""
    for name in CONTENDERS:
        found = sorted({row['config'] for row in rows if row['name'] == name})
        if len(found) > 1:
            raise ValueError(
                f'runs of {name} with different configs cannot be averaged: {", ".join(found)}; '
                'keep them in different files with --out'
            )


# The table


class Steps(NamedTuple):
    """What step.py wrote: where it ran, and a row for each config."""

    said: dict[str, str]
    rows: dict[str, Row]


def read_steps(path: Path) -> Steps:
    """Raises ValueError for another file, or one that is not complete."""
    lines = path.read_text(encoding='utf-8').splitlines()
    said = dict(line[2:].split(': ', 1) for line in lines if line.startswith('# ') and ': ' in line)
    rows = list(csv.DictReader(line for line in lines if not line.startswith('#')))
    lacking = [missing(said, ('command', *SAID)), *(missing(row, ('config', *STEP_COLUMNS)) for row in rows)]
    if any(lacking) or not rows:
        lacks = next(filter(None, lacking), 'rows')
        raise ValueError(f'{path} is no complete table of benchmarks/step.py: it lacks {lacks}')
    return Steps(said, {row['config']: row for row in rows})


def markdown(rows: list[Row], steps: Steps | None = None) -> str:
    """The table, and below it what was measured where.

    Raises:
        ValueError: if the runs cannot be compared: other lengths, options or configs.
    """
    for column in ('epochs', 'options'):
        values = sorted({row[column] for row in rows})
        if len(values) > 1:
            raise ValueError(
                f'runs of different {column} cannot be compared: {", ".join(map(repr, values))}; '
                'keep them in different files with --out'
            )
    refuse_other_configs(rows)
    counted = [row for row in rows if int(row['seed']) in SEEDS]
    head = (
        'activation',
        'gate',
        'loss',
        'seeds',
        'mask AP',
        'APr',
        'APc',
        'APf',
        'ms a step (middle half)',
        'ratio',
        'memory of a step, MiB',
    )
    lines = [f'| {" | ".join(head)} |', '|---' * len(head) + '|']
    for name, (config, activation, gate, loss) in CONTENDERS.items():
        runs = [row for row in counted if row['name'] == name]
        cells = [
            mean_and_spread(float(row[column]) for row in runs)
            for column in ('mask_ap', 'mask_apr', 'mask_apc', 'mask_apf')
        ]
        cells += _step_cells(steps.rows.get(config) if steps else None)
        lines.append(f'| {" | ".join([activation, gate, loss, str(len(runs)), *cells])} |')
    notes = [*_counts(counted), *_conditions(counted), *_step_conditions(steps)]
    others = sorted({int(row['seed']) for row in rows} - {*SEEDS})
    if others:
        notes.append(f'Runs of other seeds ({", ".join(map(str, others))}) are left out.')
    return '\n'.join([*lines, '', *notes])


def mean_and_spread(values: Iterable[float]) -> str:
    """Mean ± standard deviation of the sample; of one value only itself.

    LVIS gives −1 where there is nothing to average.
    """
    values = list(values)
    if not values or min(values) < 0:
        return '–'
    spread = f' ± {statistics.stdev(values):.3f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.3f}{spread}'


def _step_cells(row: Row | None) -> list[str]:
    if row is None:
        return ['–'] * 3
    middle, low, high, ratio, peak = (float(row[column]) for column in STEP_COLUMNS)
    return [f'{middle:.0f} ({low:.0f}–{high:.0f})', f'{ratio:.2f}', f'{peak / measure.MIB:.0f}']


def _counts(rows: list[Row]) -> Iterable[str]:
    wanted = len(CONTENDERS) * len(SEEDS)
    yield f'{len(rows)} of {wanted} runs so far.' if len(rows) < wanted else f'All {wanted} runs.'
    few, diverged = [], []
    for name, (_, activation, _, loss) in CONTENDERS.items():
        runs = [row for row in rows if row['name'] == name]
        if 0 < len(runs) < len(SEEDS):
            few.append(f'{activation} with {loss}')
        noted = [row['seed'] for row in runs if row['note']]
        if noted:
            diverged.append(f'{activation} with {loss} (seed {", ".join(noted)})')
    if few:
        yield f'Of fewer than {len(SEEDS)} seeds: {"; ".join(few)}.'
    if diverged:
        yield f'Diverged, and counted with the AP that was left, mostly 0: {"; ".join(diverged)}.'


def _conditions(rows: list[Row]) -> Iterable[str]:
    if rows:
        options = f', with `{rows[0]["options"]}`' if rows[0]['options'] else ''
        dates = sorted(row['date'].split()[0] for row in rows)
        yield (
            f'AP: {rows[0]["epochs"]} epochs each{options}; {" to ".join(dict.fromkeys((dates[0], dates[-1])))}; '
            f'commit {", ".join(dict.fromkeys(row["commit"] for row in rows))}.'
        )
        yield from dict.fromkeys(map(_machine, rows))


def _step_conditions(steps: Steps | None) -> Iterable[str]:
    if steps is None:
        return ['Time and memory: not measured.']
    return [
        f'Time and memory of a step: `{steps.said["command"]}`, {steps.said["date"].split()[0]}; the first of its '
        f'contenders is 1 in the ratios.',
        _machine(steps.said),
    ]


def _machine(said: dict[str, str]) -> str:
    return f'{said["hardware"]}; Python {said["python"]}, PyTorch {said["torch"]}, MMDetection {said["mmdet"]}.'


def write_table(table: str, page: Path) -> None:
    """Put the table between its two marks in a page."""
    text = page.read_text(encoding='utf-8')
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f'{page} has no place for the table: it has to hold the lines {BEGIN} and {END}')
    page.write_text(f'{before}{begin}\n{table}\n{end}{after}', encoding='utf-8')

"""Writes the report of ``make gpu-check``: what ran, the goals with their figures, every table, the ends of logs."""

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROWS = 60  # of a table that are shown; results.tar.gz has all
MIB = 2**20
NOT_MEASURED, NOT_READABLE = 'not measured', 'not readable'
BAD = ('failed', 'stopped')  # states of a part
# the columns that the tables of a benchmark show, where they have them
SHOWN = (
    *('name', 'site', 'config', 'backend', 'dtype', 'amp', 'shape', 'memory_format', 'frozen_stages', 'forward_ms'),
    *('forward_share', 'forward_relu_ms', 'forward_to_relu', 'backward_ms', 'backward_share', 'backward_relu_ms'),
    'backward_to_relu',
    *('forward_backward_ms', 'step_ms', 'forward_backward_to_silu', 'forward_backward_to_relu', 'to_first', 'host_ms'),
    *('share_of_copy', 'saved_mib', 'peak_mib', 'peak_bytes', 'kernels', 'device_ms', 'operators', 'note'),
)


class Result(NamedTuple):
    """state: ``passed``, ``failed``, ``stopped`` at its limit, or ``not run``."""

    state: str
    seconds: float = 0.0
    note: str = ''


def last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors='replace').splitlines() if line.strip()]
    return lines[-1][:300] if lines else ''


def read_table(path: Path) -> list[dict[str, str]]:
    """Raises a ValueError for a table that was cut off."""
    with path.open(newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith('#')))
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise ValueError(f'{path}: row {number} does not have the columns of the first')
    return rows


def markdown(rows: list[dict[str, str]]) -> list[str]:
    columns = [column for column in SHOWN if any(row.get(column) for row in rows)]
    if not columns:
        return []
    lines = [f'| {" | ".join(columns)} |', f'|{"---|" * len(columns)}']
    cells = ([(row.get(column) or '').replace('|', '\\|') for column in columns] for row in rows[:ROWS])
    return lines + [f'| {" | ".join(row)} |' for row in cells]


# The goals: name, limit, table, and the figure of its rows


def _worst(rows: list[dict[str, str]], column: str, name: str, worst: Callable = max) -> str:
    """For each dtype the worst figure of a contender."""
    by_dtype: dict[str, list[float]] = {}
    rows = [row for row in rows if row.get('name') == name and row.get(column)]
    for row in rows:
        by_dtype.setdefault(row['dtype'], []).append(float(row[column]))
    return ', '.join(f'{dtype} {worst(found):.2f}' for dtype, found in by_dtype.items()) + _backend(rows)


def _backend(rows: list[dict[str, str]]) -> str:
    """Who launched the kernels of these rows, in parentheses."""
    found = dict.fromkeys(row['backend'] for row in rows if row.get('backend'))
    return f' ({", ".join(found)})' if found else ''


def _large(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Rows of tensors of at least 64 MiB."""
    return [row for row in rows if int(row.get('predicted_forward_bytes') or 0) >= 2 * 64 * MIB]


def _peak(rows: list[dict[str, str]]) -> str:
    """The peak memory of the APA network to that of the ReLU one, for each dtype."""
    peaks = {(row['dtype'], row['name']): float(row['peak_mib']) for row in rows if row.get('peak_mib')}
    pairs = [(dtype, peaks.get((dtype, RELU))) for dtype in dict.fromkeys(dtype for dtype, _ in peaks)]
    return ', '.join(
        f'{dtype} {peaks[dtype, APA] / relu:.2f}' for dtype, relu in pairs if relu and (dtype, APA) in peaks
    )


def _sites(rows: list[dict[str, str]]) -> str:
    """Host time of a site, forward and backward, to that of batch norm and ReLU, for each launcher."""
    totals = (
        (row['name'], *(float(row[f'forward_{side}ms']) + float(row[f'backward_{side}ms']) for side in ('', 'relu_')))
        for row in rows
        if row.get('forward_ms')
    )
    return ', '.join(f'{name.removeprefix("a site, ")} {ours / relu:.2f}' for name, ours, relu in totals)


def _step_ratio(rows: list[dict[str, str]]) -> str:
    return f'{float(rows[1]["to_first"]):.2f}{_backend(rows[:1])}' if len(rows) > 1 else ''


APA, RELU, FROM_PYTHON = 'AGLU, APA gate', 'ReLU, sigmoid gate', 'AGLU, APA gate, launched from Python'
GOALS: tuple[tuple[str, str, str, Callable[[list[dict[str, str]]], str]], ...] = (
    (
        'AGLU forward and backward, tensors ≥ 64 MiB, to SiLU (worst)',
        '≤ 1.10',
        'activations_cuda.csv',
        lambda rows: _worst(_large(rows), 'forward_backward_to_silu', 'aglu'),
    ),
    (
        'AGLU forward, share of copy bandwidth, tensors ≥ 64 MiB (worst)',
        '≥ 0.80',
        'activations_cuda.csv',
        lambda rows: _worst(_large(rows), 'share_of_copy', 'aglu', min),
    ),
    (
        'SE-R50 forward and backward, 2x3x800x1333, time to ReLU + sigmoid',
        '≤ 1.0',
        'backbone_cuda.csv',
        lambda rows: _worst(rows, 'forward_backward_to_relu', APA),
    ),
    (
        'the same, launched from Python',
        '≤ 1.0',
        'backbone_cuda.csv',
        lambda rows: _worst(rows, 'forward_backward_to_relu', FROM_PYTHON),
    ),
    ('the same, peak memory', '≤ 1.0', 'backbone_cuda.csv', _peak),
    ('host time of a site, forward and backward, to batch norm + ReLU', '≤ 1.0', 'host_cuda.csv', _sites),
    ('training step of the detector, time of the ReLU recipe to it', '≥ 1.0', 'step_cuda.csv', _step_ratio),
    ('the same, launched from Python', '≥ 1.0', 'step_cuda_triton.csv', _step_ratio),
)


def goals(results: Path) -> list[str]:
    lines = ['| goal | | measured |', '|---|---|---|']
    for title, limit, name, figure in GOALS:
        path = results / name
        try:
            measured = (figure(read_table(path)) if path.exists() else '') or NOT_MEASURED
        except (KeyError, ValueError):
            measured = NOT_READABLE
        lines.append(f'| {title} | {limit} | {measured} |')
    return lines


def write(path: Path, title: str, parts: dict[str, Result], results: Path) -> None:
    """Writes the report of what there is so far; a reader never finds half of it."""
    machine = results / 'machine.txt'
    lines = [f'# {title}', '', *(f'- {line}' for line in _lines(machine)), '']
    lines += ['| part | | seconds | |', '|---|---|---|---|']
    for name, result in parts.items():
        note = result.note.replace('|', '\\|')
        state = f'**{result.state}**' if result.state in BAD else result.state
        lines.append(f'| {name} | {state} | {result.seconds:.0f} | {note} |')
    lines += ['', '## Goals', '', *goals(results), '']
    for table in sorted(results.glob('*.csv')):
        try:
            rows = read_table(table)
        except ValueError as error:
            lines += [f'## {table.name}', '', f'{NOT_READABLE}: {error}', '']
            continue
        if shown := markdown(rows):
            lines += [f'## {table.name}', '', *shown, '']
            lines += [f'The first {ROWS} of {len(rows)} rows.', ''] if len(rows) > ROWS else []
    for chart in sorted(results.glob('*.png'))[:2]:
        lines += [f'![{chart.stem}]({chart.name})', '']
    for name, result in parts.items():
        log = results / 'logs' / f'{name.replace(", ", "_").replace(" ", "_")}.log'
        if log.exists():
            wanted = 40 if result.state in BAD else 6
            lines += [f'## Log: {name}', '', '```', *(line[:300] for line in _lines(log)[-wanted:]), '```', '']
    partial = path.with_suffix('.part')
    partial.write_text('\n'.join(lines), encoding='utf-8')
    os.replace(partial, path)


def _lines(path: Path) -> list[str]:
    return path.read_text(errors='replace').splitlines() if path.exists() else []

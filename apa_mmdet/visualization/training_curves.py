"""Draws the training curves of a run: losses, learning rate and average precision, from its log."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from apa_mmdet.evaluation.functional.metric_names import KINDS

from .activation_curves import colors, save

COLUMNS = ('AP', 'APr', 'APc', 'APf', 'mAP', 'mAP_50', 'mAP_75')  # of LVIS and of COCO
PARTS = ('RPN', 'mask', 'class and box')


def precisions(metrics: dict[str, float]) -> dict[str, dict[str, float]]:
    """Picks the average precisions of box and mask among metrics: type → name → value.

    Example:
        >>> precisions({'lvis/bbox_AP': 0.3, 'lvis/bbox_APl': 0.4, 'coco/segm_mAP_50': 0.2, 'step': 5})
        {'box': {'AP': 0.3}, 'mask': {'mAP_50': 0.2}}
    """
    values = {key.split('/')[-1]: value for key, value in metrics.items()}
    tables = {
        name: {column: values[f'{kind}_{column}'] for column in COLUMNS if f'{kind}_{column}' in values}
        for kind, name in KINDS.items()
    }
    return {name: table for name, table in tables.items() if table}


class Log(NamedTuple):
    """The log of a training run: a row per logged step and one per validation, each with its ``step``."""

    steps: list[dict]
    validations: list[dict]

    @property
    def by_epoch(self) -> bool:
        """Whether the step of a validation is an epoch."""
        return any('epoch' in row for row in self.steps)


def read_log(work_dir: Path) -> Log | None:
    """Reads the log of the latest training run in a work dir, or returns None if there is none."""
    for path in sorted(work_dir.glob('*/vis_data/scalars.json'), reverse=True):
        steps, validations = [], []
        for line in path.read_text(encoding='utf-8', errors='replace').splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # cut short when the run was killed
            if not isinstance(row, dict) or 'step' not in row:
                continue
            if 'loss' in row:
                steps.append(row)
            elif precisions(row):
                # a run that counts steps may number its validations by epochs, the default of MMEngine's LoggerHook
                by_step = steps and 'epoch' not in steps[-1]
                validations.append(dict(row, step=max(row['step'], steps[-1]['step'])) if by_step else row)
        if steps:  # not the log of a test, or of a run that stopped before its first line
            return Log(steps, validations)
    return None


def draw_training_curves(work_dir: Path, out: Path) -> Path | None:
    """Draws losses, learning rate and average precisions of the latest training run in a work dir.

    Args:
        work_dir: folder of a run of ``tools/train.py``. A resumed run shows the steps since it was resumed.
        out: file to write, in the format of its suffix.

    Returns:
        ``out``; None if the folder has no log of a training run.
    """
    log = read_log(work_dir)
    if log is None:
        return None
    figure = Figure(figsize=(11, 7.5 if log.validations else 4), layout='constrained')
    upper, *lower = figure.subfigures(2 if log.validations else 1, 1, squeeze=False)[:, 0]
    _draw_steps(upper.subplots(1, 2 if any('lr' in row for row in log.steps) else 1, squeeze=False)[0], log.steps)
    if lower:
        _draw_precisions(lower[0], log)
    figure.suptitle(work_dir.resolve().name)
    return save(figure, out)


def _draw_steps(axes: Sequence[Axes], rows: list[dict]) -> None:
    x = [row['step'] for row in rows]
    curves = loss_curves(rows)
    for (name, values), color in zip(curves.items(), colors(len(curves))):
        axes[0].plot(x, values, color=color, linewidth=0.8, alpha=0.4)
        axes[0].plot(x, smooth(values), color=color, label=name, **_dots(x))
    axes[0].set_yscale('log', nonpositive='mask')
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes[0].yaxis.set_major_formatter('{x:g}')
    axes[0].yaxis.set_minor_formatter(NullFormatter())
    _label(axes[0], 'loss (thin: as logged; thick: smoothed)', 'step')
    if len(axes) > 1:
        axes[1].plot(x, [row.get('lr', np.nan) for row in rows], color=colors(1)[0], **_dots(x))
        axes[1].set_ylim(bottom=0)
        axes[1].ticklabel_format(axis='y', style='sci', scilimits=(-2, 3))
        _label(axes[1], 'learning rate', 'step')


def loss_curves(rows: list[dict]) -> dict[str, np.ndarray]:
    """Sums the losses of each row: the total, and those of each part of the detector.

    Example:
        >>> loss_curves([dict(loss=6.0, loss_rpn_cls=1.0, loss_rpn_bbox=2.0, loss_cls=3.0, lr=0.1)])
        {'total': array([6.]), 'RPN': array([3.]), 'class and box': array([3.])}
    """
    parts = {key: _part(key) for row in rows for key in row if 'loss' in key and key != 'loss'}
    names = [name for name in PARTS if name in parts.values()] if len(set(parts.values())) > 1 else []
    sums = {name: [sum(row.get(key, 0.0) for key in parts if parts[key] == name) for row in rows] for name in names}
    return {name: np.array(values, float) for name, values in dict(total=[row['loss'] for row in rows], **sums).items()}


def _part(key: str) -> str:
    return 'RPN' if 'rpn' in key else 'mask' if 'mask' in key else 'class and box'


def smooth(values: np.ndarray) -> np.ndarray:
    """Averages the finite values around each one, over a twentieth of all.

    Example:
        >>> smooth(np.array([1.0, 3.0, np.nan, 5.0])).tolist()
        [1.0, 3.0, nan, 5.0]
        >>> smooth(np.append(np.zeros(50), 5.0))[-2:].tolist()
        [1.6666666666666667, 2.5]
    """
    finite = np.isfinite(values)
    sums, counts = (_sums_around(x, len(values) // 40) for x in (np.where(finite, values, 0.0), finite.astype(float)))
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)


def _sums_around(values: np.ndarray, reach: int) -> np.ndarray:
    """The sum of the values up to ``reach`` places from each one.

    In blocks as long as a window, a window is the tail of a block and the head of the next. By differences of
    cumulative sums instead, a huge value, of a training that diverged, would spoil all sums behind it.
    """
    width, starts = 2 * reach + 1, np.arange(len(values))
    blocks = np.pad(values, (reach, reach + -(len(values) + 2 * reach) % width)).reshape(-1, width)
    heads, tails = blocks.cumsum(1).ravel(), blocks[:, ::-1].cumsum(1)[:, ::-1].ravel()
    return tails[starts] + np.where(starts % width, heads[starts + 2 * reach], 0.0)


def _draw_precisions(figure, log: Log) -> None:
    tables = [precisions(row) for row in log.validations]
    kinds = [name for name in KINDS.values() if any(name in table for table in tables)]
    x = [row['step'] for row in log.validations]
    for axis, kind in zip(figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0], kinds):
        columns = [column for column in COLUMNS if any(column in table.get(kind, ()) for table in tables)]
        for column, color in zip(columns, colors(len(columns))):
            values = np.array([table.get(kind, {}).get(column, np.nan) for table in tables], float)
            values[values < 0] = np.nan  # mmdet's metrics give −1 where there is nothing to average
            last = f'{values[-1]:.3f}' if np.isfinite(values[-1]) else '-'
            axis.plot(x, values, color=color, marker='o', markersize=4, label=f'{column}  {last}')
        axis.set_ylim(bottom=0)
        axis.set_xlim(0, max(x) * 1.05 + 0.05)
        axis.xaxis.get_major_locator().set_params(integer=True)
        _label(axis, f'{kind} AP (numbers: the last)', 'epoch' if log.by_epoch else 'step')


def _label(axis: Axes, title: str, x: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(x, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(color='0.9', linewidth=0.6)
    axis.spines[['top', 'right']].set_visible(False)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8, frameon=False)


def _dots(x: Sequence[int]) -> dict:
    """Style of a line that is visible even if it has one point."""
    return dict(linewidth=1.8, marker='o' if len(x) < 3 else None, markersize=4)

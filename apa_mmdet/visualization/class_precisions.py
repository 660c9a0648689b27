"""Draws the average precision of each class over its frequency in the training, from the tables of FastCocoMetric."""

import csv
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from apa_mmdet.datasets.frequency_groups import GROUPS
from apa_mmdet.utils.errors import in_one_line

from .activation_curves import colors, save

TITLES = dict(bbox='boxes', segm='masks')
BINS = 12  # of the line of means, equally many classes each


def draw_class_precisions(folder: Path, out: Path) -> Path | None:
    """Draws ``classes_bbox.csv`` and ``classes_segm.csv`` of a folder: a point a class, and the mean along frequency.

    Args:
        folder: that of the log of a validation or test.
        out: file to write, in the format of its suffix.

    Returns:
        ``out``; None if the folder has no such table, or no class in them has an AP.
    """
    tables = {title: read_classes(folder / f'classes_{kind}.csv') for kind, title in TITLES.items()}
    tables = {title: rows for title, rows in tables.items() if rows}
    if not tables:
        return None
    figure = Figure(figsize=(5.5 * len(tables), 4), layout='constrained')
    for axes, (title, rows) in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables.items()):
        _draw(axes, title, rows)
    return save(figure, out)


def read_classes(path: Path) -> list[tuple[str, int, float]]:
    """Group, images and AP of each class that has an AP.

    Raises:
        CodedError: ``unreadable-table``.
    """
    if not path.is_file():
        return []
    with (
        in_one_line('unreadable-table', f'{path} cannot be read', keep=OSError),
        path.open(newline='', encoding='utf-8') as file,
    ):
        return [(row['group'], int(row['images']), float(row['AP'])) for row in csv.DictReader(file) if row['AP']]


def _draw(axes: Axes, title: str, rows: list[tuple[str, int, float]]) -> None:
    for (group, name), color in zip(GROUPS.items(), colors(len(GROUPS))):
        points = [(images, ap) for of, images, ap in rows if of == group]
        if points:
            mean = np.mean([ap for _, ap in points])
            axes.plot(*zip(*points), '.', color=color, alpha=0.5, label=f'{name}: {len(points)}, AP {mean:.3f}')
    ordered = np.array(sorted(row[1:] for row in rows))
    parts = np.array_split(ordered, min(BINS, len(ordered)))
    axes.plot(*np.array([part.mean(0) for part in parts]).T, color='0.3', label='mean')
    axes.set_xscale('symlog', linthresh=1)
    axes.xaxis.set_major_formatter('{x:g}')
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1)
    axes.set_xlabel('training images of the class')
    axes.set_ylabel('AP')
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[['top', 'right']].set_visible(False)

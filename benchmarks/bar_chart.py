"""Draws the chart of a benchmark: columns of bars that share their labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Panel(NamedTuple):
    """One column of bars.

    Attributes:
        title: above the column.
        values: lengths of the bars, by label and series.
        spans: start and end of the thin line on a bar.
        marks: goals, each drawn as a stroke across its bar.
        reference: a line through all bars.
    """

    title: str
    values: dict[tuple[str, str], float]
    spans: dict[tuple[str, str], tuple[float, float]] = {}
    marks: dict[tuple[str, str], float] = {}
    reference: float | None = None


def draw_bars(path: Path, title: str, labels: Sequence[str], series: Sequence[str], panels: Sequence[Panel]) -> None:
    """Writes the chart, or prints that matplotlib is not installed. An empty label leaves a gap."""
    try:
        import matplotlib
    except ImportError:
        print('no chart: matplotlib is not installed', flush=True)
        return
    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    places, row = {}, 0.0
    for label in labels:
        places[label] = row
        row += 1 if label else 0.4
    places.pop('', None)
    figure, axes = plt.subplots(
        1,
        len(panels),
        sharey=True,
        squeeze=False,
        layout='constrained',
        figsize=(2 + 3 * len(panels), 1.3 + row * (0.14 + 0.2 * len(series))),
    )
    for panel, axis in zip(panels, axes[0]):
        _draw_panel(axis, panel, places, series)
    axes[0, 0].set_yticks(list(places.values()), list(places))
    axes[0, 0].set_ylim(row - 0.4, -0.6)
    figure.suptitle(title, fontsize=10)
    if len(series) > 1:
        figure.legend(
            *axes[0, 0].get_legend_handles_labels(),
            loc='outside lower center',
            ncols=len(series),
            fontsize=8,
            frameon=False,
        )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_panel(axis, panel: Panel, places: dict[str, float], series: Sequence[str]) -> None:
    thick = 0.8 / len(series)
    ends = [high for _, high in panel.spans.values()]
    right = max([*panel.values.values(), *ends, *panel.marks.values()], default=1.0)
    if panel.reference is not None:
        axis.axvline(panel.reference, color='black', linestyle='--', linewidth=0.8, zorder=2)
    for i, name in enumerate(series):
        rows = {
            (label, name): place + (i - (len(series) - 1) / 2) * thick
            for label, place in places.items()
            if (label, name) in panel.values
        }
        axis.barh(
            list(rows.values()), [panel.values[key] for key in rows], 0.9 * thick, color=f'C{i}', alpha=0.75, label=name
        )
        for key, y in rows.items():
            end = max(panel.values[key], *panel.spans.get(key, (0, 0)), panel.marks.get(key, 0))
            if key in panel.spans:
                axis.plot(panel.spans[key], (y, y), color='black', linewidth=1, zorder=3)
            if key in panel.marks:
                axis.plot([panel.marks[key]] * 2, (y - thick * 0.45, y + thick * 0.45), color='crimson', linewidth=2)
            text = f'{panel.values[key]:.0f}' if panel.values[key] >= 100 else f'{panel.values[key]:.2f}'
            axis.text(
                end + 0.02 * right,
                y,
                text,
                va='center',
                fontsize=7,
                zorder=4,
                bbox=dict(facecolor='white', edgecolor='none', pad=0.5),
            )
    axis.set_title(panel.title, fontsize=9)
    axis.set_xlim(0, 1.2 * right)
    axis.tick_params(labelsize=8)
    axis.tick_params(axis='y', left=False)
    axis.spines[['top', 'right']].set_visible(False)

"""Figures of the activations that a network has learned."""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from apa_mmdet.checkpoint.compare import compare, misfit
from apa_mmdet.checkpoint.io import read_checkpoint
from apa_mmdet.models.activations import LearnableActivation, learnable_activations
from apa_mmdet.models.activations.sites import LearnableActivationInfo, find_learnable_activations
from apa_mmdet.models.calibration import without_calibration
from apa_mmdet.utils.config import BadConfig, build_detector, load_config
from apa_mmdet.utils.errors import CodedError

from .activation_curves import Curves, colors, sample, save, style_axis

MAX_CURVES = 24  # of one panel: more cannot be distinguished


def draw_checkpoint(checkpoint: Path, config: Path | None, out: Path, limit: float = 5.0) -> list[Path]:
    """Draws every learned activation; ``out/<run>_<checkpoint>_values.png``, ``…_derivatives.png``.

    <run> is the folder of the checkpoint and, if its name differs, the config.

    Args:
        checkpoint: weights of a detector, or of its backbone alone.
        config: config of the detector; None for the one beside the checkpoint, which MMEngine writes there.
        out: folder of the figures.
        limit: inputs range from −limit to limit.

    Raises:
        OSError: if a file is not there.
        BadCheckpoint, WrongWeights: if the checkpoint is not one or does not fit.
        BadConfig: if the model cannot be built; ``no-activation``, if it has no learnable one.
        CodedError: ``needs-config``, as of :func:`config_beside`.
    """
    weights = read_checkpoint(checkpoint).weights
    config = config or config_beside(checkpoint)
    sites = find_learnable_activations(build_detector(without_calibration(load_config(config)), config))
    if not sites:
        names = ', '.join(learnable_activations())
        raise BadConfig('no-activation', f'{config}: its model has none of the learnable activations {names}')
    load_sites(sites, weights, checkpoint)
    names = list(dict.fromkeys((checkpoint.resolve().parent.name, config.stem, checkpoint.stem)))
    return draw_learned_activations(sites, ', '.join(names), out, '_'.join(names), limit)


def draw_learned_activations(
    sites: Sequence[LearnableActivationInfo], title: str, out: Path, name: str, limit: float = 5.0
) -> list[Path]:
    """Draws activations as they are now, on any device; ``out/<name>_values.png``, ``…_derivatives.png``.

    Raises:
        OSError: if a figure cannot be written.
    """
    bar = tqdm([('values', False), ('derivatives', True)], 'drawing', unit='figure', disable=None, leave=False)
    return [save(learned_figure(sites, title, slope, limit), out / f'{name}_{what}.png') for what, slope in bar]


def config_beside(checkpoint: Path) -> Path:
    """The config that MMEngine writes into the folder of a run.

    Raises:
        CodedError: ``needs-config``, if there is none, or more than one.
    """
    found = sorted(checkpoint.parent.glob('*.py'))
    if len(found) != 1:
        raise CodedError(
            'needs-config',
            f'{checkpoint.parent} holds {len(found) or "no"} config{"s" if found else ""}; '
            'say with --config which one the checkpoint was trained with',
        )
    return found[0]


def load_sites(sites: Sequence[LearnableActivationInfo], weights: dict[str, Tensor], checkpoint: Path) -> None:
    """Loads the parameters of every site from the weights of a detector or a backbone.

    Raises:
        WrongWeights: if one is missing, or has neither its own shape nor that of official weights.
    """
    prefix = '' if any(name.startswith('backbone.') for name in weights) else 'backbone.'
    for site in sites:
        own = site.activation.state_dict()
        names = {key: f'{site.name}.{key}'.removeprefix(prefix) for key in own}
        try:
            site.activation.load_state_dict({key: weights[name] for key, name in names.items() if name in weights})
        except RuntimeError:
            differences = compare(weights, {name: own[key] for key, name in names.items()})
            wrong = {key: differences[key] for key in ('missing', 'shape')}
            raise misfit(wrong, str(checkpoint), 'the model') from None


def learned_curves(activation: LearnableActivation, limit: float) -> Curves:
    """Samples :meth:`LearnableActivation.curves` of a copy on the CPU, in float32."""
    return sample(*copy.deepcopy(activation).cpu().float().eval().curves(), limit)


def learned_figure(sites: Sequence[LearnableActivationInfo], title: str, slope: bool, limit: float) -> Figure:
    """Draws a row for each slot, a column for each stage; colors go from the first of a panel to its last."""
    stages = list(dict.fromkeys(site.stage for site in sites))
    slots = list(dict.fromkeys(site.slot for site in sites if site.slot)) or ['']
    panels = {  # the stem has no slot, and is in the first row
        (slot, stage): [site for site in sites if (site.slot or slots[0], site.stage) == (slot, stage)]
        for slot in slots
        for stage in stages
    }
    columns = len(stages) if len(slots) > 1 else min(len(stages), 6)  # a single row is continued below
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(2.2 + 2.3 * columns, 1.4 + 2.1 * rows), layout='constrained')
    grid = figure.subplots(rows, columns, sharex=True, sharey='row', squeeze=False)
    for axis in grid.flat:
        axis.set_axis_off()
    for axis, ((slot, stage), panel) in zip(grid.flat, panels.items()):
        if panel:
            axis.set_axis_on()
            axis.set_title(stage if stage == 'stem' else f'{stage} {slot}', fontsize=9)
            _draw_panel(axis, panel, slope, limit)
    for line, side in [(row, 'labelleft') for row in grid] + [(column[::-1], 'labelbottom') for column in grid.T]:
        first = next(axis for axis in line if axis.axison)  # where panels are missing, not the one at the edge
        first.tick_params(**{side: True})
    figure.supxlabel('z', fontsize=10)
    figure.supylabel('first derivative' if slope else 'value', fontsize=10)
    notes = [f'thick: the channel nearest to the median of all; thin: some of all, up to {MAX_CURVES} in a panel']
    notes = notes if any(site.activation.curves()[1] > 1 for site in sites) else []
    notes += dict.fromkeys(note for site in sites if (note := site.activation.curves_note()))
    figure.suptitle('\n'.join([title, *notes]), wrap=True)
    scale = ScalarMappable(cmap=ListedColormap(colors(256)))
    bar = figure.colorbar(scale, ax=grid, location='right', aspect=30, shrink=0.4, pad=0.01, ticks=(0, 1))
    bar.ax.set_yticklabels(['first of\na panel', 'last of\na panel'], fontsize=8)
    bar.outline.set_visible(False)
    return figure


def _draw_panel(axis, panel: Sequence[LearnableActivationInfo], slope: bool, limit: float) -> None:
    """Draws some curves of each activation, thick the one nearest to their median."""
    for site, color in zip(panel, colors(len(panel))):
        curves = learned_curves(site.activation, limit)
        lines = curves.slope if slope else curves.value
        count = lines.shape[1]
        if count > 1:
            some = np.linspace(0, count - 1, min(count, max(1, MAX_CURVES // len(panel)))).round().astype(int)
            axis.plot(curves.x, lines[:, some], color=color, linewidth=0.6, alpha=0.5)
        # none of them is their mean or median, which can have a shape that no channel has
        middle = np.abs(curves.value - np.median(curves.value, 1, keepdims=True)).sum(0).argmin()
        axis.plot(curves.x, lines[:, middle], color=color, linewidth=1.6)
    style_axis(axis, limit)

"""Pictures of activations: what a network has learnt."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from tqdm import tqdm

from apa_mmdet.checkpoint.io import read_checkpoint

from .activation_curves import FAMILIES, Curves, colors, cross, curves, save

CHANNELS = 24  # of one panel: more cannot be told apart


class Site(NamedTuple):
    """An activation with learnt parameters and its place in the network."""

    name: str
    stage: str
    kind: str
    activation: nn.Module


def draw_checkpoint(checkpoint: Path, config: Path | None, out: Path, limit: float = 5.0) -> list[Path]:
    """Draw the learnt curve of every site; ``out/<run>_<checkpoint>_values.png``, ``…_derivatives.png``.

    <run> is the folder of the checkpoint and, where it is called otherwise, the config.

    Args:
        checkpoint: weights of a detector, or of its backbone alone.
        config: config of the detector; None for the one that the run left beside its checkpoint.
        out: folder of the pictures.
        limit: inputs go from −limit to limit.

    Raises:
        OSError: if a file is not there.
        ValueError: if the checkpoint is none or does not fit, the config cannot be built, or its model learns no
            activation.
    """
    weights = read_checkpoint(checkpoint).weights
    config = config or config_beside(checkpoint)
    sites = sites_of(_built(config))
    if not sites:
        raise ValueError(f'{config}: its model has none of the learnable activations {", ".join(FAMILIES)}')
    load_sites(sites, weights, checkpoint)
    names = list(dict.fromkeys((checkpoint.resolve().parent.name, config.stem, checkpoint.stem)))
    return draw_sites(sites, ', '.join(names), out, '_'.join(names), limit)


def draw_sites(sites: Sequence[Site], title: str, out: Path, name: str, limit: float = 5.0) -> list[Path]:
    """Draw sites as they are now, on whatever device; ``out/<name>_values.png``, ``…_derivatives.png``.

    Raises:
        OSError: if a picture cannot be written.
    """
    bar = tqdm([('values', False), ('derivatives', True)], 'drawing', unit='picture', disable=None, leave=False)
    return [save(sites_figure(sites, title, slope, limit), out / f'{name}_{what}.png') for what, slope in bar]


def _built(config: Path) -> nn.Module:
    """The model of a config."""
    init_default_scope('mmdet')
    try:
        cfg = Config.fromfile(config)
        if 'model' in cfg:
            return MODELS.build(cfg.model)
    except OSError:
        raise
    except Exception as error:  # a config is code, and fails in any way
        lines = str(error.args[0] if isinstance(error, KeyError) else error).strip().splitlines()
        raise ValueError(f'{config}: its model cannot be built: {type(error).__name__}: {" ".join(lines)}') from error
    raise ValueError(f'{config} is no config of a detector: it has no `model`')


def config_beside(checkpoint: Path) -> Path:
    """The config that MMEngine writes into the folder of a run."""
    found = sorted(checkpoint.parent.glob('*.py'))
    if len(found) != 1:
        raise ValueError(
            f'{checkpoint.parent} holds {len(found) or "no"} config{"s" if found else ""}; '
            'say with --config which one the checkpoint was trained with'
        )
    return found[0]


def sites_of(model: nn.Module) -> list[Site]:
    """Every learnable activation of a model, in the order of its modules.

    Example:
        >>> sites = sites_of(MODELS.build(dict(type='SEResNet', depth=18)))
        >>> [(site.stage, site.kind) for site in sites[:4]]
        [('stem', ''), ('layer1', 'conv1'), ('layer1', 'out'), ('layer1', 'se gate')]
    """
    return [
        Site(name, *_place(name), module) for name, module in model.named_modules() if type(module).__name__ in FAMILIES
    ]


def _place(name: str) -> tuple[str, str]:
    """Stage and kind of a site, from its name."""
    if name.endswith('act_stem'):
        return 'stem', ''
    stage = re.match(r'(?:backbone\.)?(.*?(?:layers?|stages?|blocks)\.?\d+)', name)
    kind = re.search(r'[^.]+(?:\.\d+)*$', name).group()  # numbers at the end tell the sites of a block apart
    kind = 'se gate' if name.endswith('.se.gate') else kind.removeprefix('act_')
    return stage.group(1) if stage else name.split('.')[0], kind


def load_sites(sites: Sequence[Site], weights: dict[str, Tensor], checkpoint: Path) -> None:
    """Give every site its parameters from the weights of a detector or a backbone."""
    prefix = '' if any(name.startswith('backbone.') for name in weights) else 'backbone.'
    for site in sites:
        own = site.activation.state_dict()
        names = {key: f'{site.name}.{key}'.removeprefix(prefix) for key in own}
        try:
            site.activation.load_state_dict({key: weights[name] for key, name in names.items() if name in weights})
        except RuntimeError:  # something is missing, or has neither its own shape nor that of published files
            key, name = next(
                (key, name)
                for key, name in names.items()
                if name not in weights or weights[name].shape != own[key].shape
            )
            had = f'has {name} of shape {tuple(weights[name].shape)}' if name in weights else f'has no {name}'
            raise ValueError(
                f'{checkpoint} {had}, which the config asks for with {tuple(own[key].shape)}: '
                'was it trained with this config?'
            ) from None


def site_curves(activation: nn.Module, limit: float) -> Curves:
    """One curve for every channel that has parameters of its own; with Meta-ACON, for each of several β as well."""
    function, parameters, fixed, _ = FAMILIES[type(activation).__name__]
    learnt = [name for name in (*parameters, *fixed) if isinstance(getattr(activation, name, None), Tensor)]
    values = (getattr(activation, name).detach().cpu().float().flatten() for name in learnt)
    at = dict(zip(learnt, torch.broadcast_tensors(*values)))
    if 'beta' in parameters and 'beta' not in learnt:  # Meta-ACON's depends on the input
        betas = _usual_betas(activation)
        at = {name: value.repeat(len(betas)) for name, value in at.items()}
        at['beta'] = betas.flatten()
    return curves(lambda z: function(z, **at), next(iter(at.values())).numel(), limit)


def _usual_betas(activation: nn.Module) -> Tensor:
    """β of Meta-ACON, (values, channels): the usual ones as its last norm has them; without a norm, all over (0, 1)."""
    if _knows_betas(activation):
        norm = activation.bn2  # over the training data, its results have this mean and deviation
        mean, deviation = norm.bias.detach().cpu().float(), norm.weight.detach().cpu().float().abs()
        return torch.stack([mean - deviation, mean, mean + deviation]).sigmoid()
    betas = torch.tensor(FAMILIES['MetaAconC'].parameters['beta'].values)
    return betas[:, None].expand(-1, activation.num_features)


def _knows_betas(activation: nn.Module) -> bool:
    return all(getattr(activation.bn2, name, None) is not None for name in ('weight', 'bias'))


def sites_figure(sites: Sequence[Site], title: str, slope: bool, limit: float) -> Figure:
    """A row for each kind of site, a column for each stage; colours go from the first site of a panel to the last."""
    stages = list(dict.fromkeys(site.stage for site in sites))
    kinds = list(dict.fromkeys(site.kind for site in sites if site.kind)) or ['']
    panels = {  # the stem has no kind, and stands in the first row
        (kind, stage): [site for site in sites if (site.kind or kinds[0], site.stage) == (kind, stage)]
        for kind in kinds
        for stage in stages
    }
    columns = len(stages) if len(kinds) > 1 else min(len(stages), 6)  # a single row goes on below
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(2.2 + 2.3 * columns, 1.4 + 2.1 * rows), layout='constrained')
    grid = figure.subplots(rows, columns, sharex=True, sharey='row', squeeze=False)
    several = False
    for axis in grid.flat:
        axis.set_axis_off()
    for axis, ((kind, stage), panel) in zip(grid.flat, panels.items()):
        if panel:
            axis.set_axis_on()
            axis.set_title(stage if stage == 'stem' else f'{stage} {kind}', fontsize=9)
            several |= _draw_panel(axis, panel, slope, limit)
    for line, side in [(row, 'labelleft') for row in grid] + [(column[::-1], 'labelbottom') for column in grid.T]:
        first = next(axis for axis in line if axis.axison)  # where panels are missing, not the one at the edge
        first.tick_params(**{side: True})
    figure.supxlabel('z', fontsize=10)
    figure.supylabel('first derivative' if slope else 'value', fontsize=10)
    figure.suptitle('\n'.join([title, *_notes(sites, several)]), wrap=True)
    _add_scale(figure, grid)
    return figure


def _notes(sites: Iterable[Site], several: bool) -> Iterable[str]:
    """What the lines of a panel are."""
    if several:
        yield f'thick: the channel nearest to the median of all; thin: some of all, up to {CHANNELS} in a panel'
    known = {_knows_betas(site.activation) for site in sites if type(site.activation).__name__ == 'MetaAconC'}
    if True in known:
        yield "a channel's β is σ(bias + t·|weight|) of the last norm, t = −1, 0 or 1: usual inputs"
    if False in known:
        yield 'β depends on the input and has no norm: from 0.05 to 0.95'


def _draw_panel(axis, panel: Sequence[Site], slope: bool, limit: float) -> bool:
    """Whether there is a site with several curves: then some are drawn, thick the one nearest to their median."""
    several = False
    for site, color in zip(panel, colors(len(panel))):
        found = site_curves(site.activation, limit)
        lines = found.slope if slope else found.value
        count = lines.shape[1]
        if count > 1:
            several = True
            some = np.linspace(0, count - 1, min(count, max(1, CHANNELS // len(panel)))).round().astype(int)
            axis.plot(found.x, lines[:, some], color=color, linewidth=0.6, alpha=0.5)
        # none of them is their mean or median, which can have a shape that no channel has
        middle = np.abs(found.value - np.median(found.value, 1, keepdims=True)).sum(0).argmin()
        axis.plot(found.x, lines[:, middle], color=color, linewidth=1.6)
    cross(axis, limit)
    return several


def _add_scale(figure: Figure, grid: np.ndarray) -> None:
    scale = ScalarMappable(cmap=ListedColormap(colors(256)))
    bar = figure.colorbar(scale, ax=grid, location='right', aspect=30, shrink=0.4, pad=0.01, ticks=(0, 1))
    bar.ax.set_yticklabels(['first of\na panel', 'last of\na panel'], fontsize=8)
    bar.outline.set_visible(False)

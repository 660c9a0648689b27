"""Pictures of activations: what their parameters do, and what a network has learnt."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from .. import ops
from ..models.activations import build_activation
from .weights_file import read_checkpoint

POINTS = 801
CHANNELS = 24  # of one panel: more cannot be told apart


class Parameter(NamedTuple):
    """What it is called, the values that are drawn, and the one at which it rests while another varies."""

    symbol: str
    values: tuple[float, ...]
    rest: float


class Family(NamedTuple):
    """A function of :mod:`apa_mmdet.ops` and those of its parameters that vary; ``fixed`` are the others."""

    function: Callable[..., Tensor]
    parameters: dict[str, Parameter]
    fixed: dict[str, float] = {}
    note: str = ''


_APA = dict(lambda_=Parameter('λ', (1e-4, 0.25, 0.5, 1, 2), 1), kappa=Parameter('κ', (-1, 0.5, 1, 2, 5), 1))
_P1 = Parameter('p₁', (-0.5, 0.5, 1, 1.5), 1)
_P2 = Parameter('p₂', (-0.5, 0, 0.5, 0.75), 0)
_BETA = Parameter('β', (0, 0.5, 1, 2, 5), 1)
FAMILIES: dict[str, Family] = {
    'APA': Family(ops.apa, _APA),
    'AGLU': Family(ops.aglu, _APA),
    'AconA': Family(ops.acon, dict(beta=_BETA), dict(p1=1, p2=0)),
    'AconB': Family(ops.acon, dict(p2=_P2, beta=_BETA), dict(p1=1)),
    'AconC': Family(ops.acon, dict(p1=_P1, p2=_P2, beta=_BETA)),
    'MetaAconC': Family(
        ops.acon,
        dict(p1=_P1, p2=_P2, beta=Parameter('β', (0.05, 0.25, 0.5, 0.75, 0.95), 0.5)),
        note='β depends on the input, 0 < β < 1',
    ),
    'APALU': Family(
        ops.apalu, dict(a=Parameter('a', (0.25, 0.5, 0.75, 1), 0.5), b=Parameter('b', (0.25, 0.5, 0.75, 1), 0.75))
    ),
}


class Curves(NamedTuple):
    """Values and first derivatives at ``x``, (points, curves); no derivative where it jumps."""

    x: np.ndarray
    value: np.ndarray
    slope: np.ndarray


def curves(function: Callable[[Tensor], Tensor], count: int, limit: float) -> Curves:
    """A function of (N, ``count``) that maps every number by itself, over −``limit`` … ``limit``."""
    x = torch.linspace(-limit, limit, POINTS)
    z = x[:, None].repeat(1, count).requires_grad_()
    value = function(z)
    (slope,) = torch.autograd.grad(value.sum(), z)
    slope = slope.numpy()
    step = np.abs(np.diff(slope, axis=0, prepend=slope[:1], append=slope[-1:]))
    jump = step[1:-1] > 5 * np.maximum(step[:-2], step[2:]) + 1e-3  # between two points, and nothing like it beside
    slope[1:][jump] = np.nan
    return Curves(x.numpy(), value.detach().numpy(), slope)


# Over the parameters


def draw_types(types: Sequence[str], out: Path, limit: float = 5.0) -> list[Path]:
    """Draw each activation with its first derivative over its parameters; ``out/<type>.png``.

    Args:
        types: names of registered activations. Those that are not in :data:`FAMILIES` are drawn as they are built.
        out: folder of the pictures.
        limit: inputs go from −limit to limit.

    Raises:
        ValueError: for a name that is not registered, or no activation.
    """
    figures = {kind: type_figure(kind, limit) for kind in types}
    return [_save(figure, out / f'{kind}.png') for kind, figure in figures.items()]


def type_figure(kind: str, limit: float) -> Figure:
    """A column for each parameter: values above, first derivatives below."""
    columns = list(_sweeps(kind, limit)) if kind in FAMILIES else [('', [''], _as_built(kind, limit))]
    figure = Figure(figsize=(1 + 3.3 * len(columns), 6), layout='constrained')
    axes = figure.subplots(2, len(columns), sharex=True, sharey='row', squeeze=False)
    for (title, labels, found), (upper, lower) in zip(columns, axes.T):
        for i, (label, color) in enumerate(zip(labels, _colors(len(labels)))):
            upper.plot(found.x, found.value[:, i], color=color, label=label)
            lower.plot(found.x, found.slope[:, i], color=color)
        upper.set_title(title, fontsize=10)
        lower.set_xlabel('z')
        if len(labels) > 1:
            lower.legend(
                *upper.get_legend_handles_labels(),
                fontsize=8,
                frameon=False,
                columnspacing=1,
                ncols=(len(labels) + 1) // 2,
                loc='upper center',
                bbox_to_anchor=(0.5, -0.2),
            )
    for axis in axes.flat:
        _cross(axis, limit)
    axes[0, 0].set_ylabel('value')
    axes[1, 0].set_ylabel('first derivative')
    note = FAMILIES[kind].note if kind in FAMILIES else ''
    figure.suptitle(f'{kind}: {note}' if note else kind)
    return figure


def _sweeps(kind: str, limit: float) -> Iterable[tuple[str, list[str], Curves]]:
    """For each parameter of a family: a title, the label of each value and the curves."""
    function, parameters, fixed, _ = FAMILIES[kind]
    for varied, (symbol, values, _) in parameters.items():
        at = {name: torch.full((len(values),), float(rest)) for name, (_, _, rest) in parameters.items()}
        at.update({name: torch.full((len(values),), float(value)) for name, value in fixed.items()})
        at[varied] = torch.tensor(values, dtype=torch.float32)
        others = ', '.join(f'{p.symbol} = {p.rest:g}' for name, p in parameters.items() if name != varied)
        found = curves(partial(function, **at), len(values), limit)
        yield (
            f'{symbol} varies' + (f', {others}' if others else ''),
            [f'{symbol} = {value:g}'.replace('-', '−') for value in values],
            found,
        )


def _as_built(kind: str, limit: float) -> Curves:
    if MODELS.get(kind) is None:
        raise ValueError(f'activation {kind!r} is not registered; this package has {", ".join(FAMILIES)}')
    try:
        activation = build_activation(dict(type=kind), 1).eval()
        found = curves(lambda z: activation(z.clone()), 1, limit)  # some work in place
        far = torch.tensor([[-100.0], [100.0]])
        changes = not torch.equal(activation(far.clone()), far)  # a dropout does not, nor does what stands for nothing
    except (TypeError, RuntimeError, ValueError):
        changes = False
    if not changes:
        raise ValueError(
            f'{kind!r} is registered, but is no activation that can be built from its name '
            'and maps every number by itself'
        )
    return found


# As a network has learnt them


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
    return [
        _save(
            sites_figure(sites, ', '.join(names), slope, limit),
            out / f'{"_".join(names)}_{"derivatives" if slope else "values"}.png',
        )
        for slope in (False, True)
    ]


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
    at = dict(
        zip(learnt, torch.broadcast_tensors(*(getattr(activation, name).detach().float().flatten() for name in learnt)))
    )
    if 'beta' in parameters and 'beta' not in learnt:  # Meta-ACON's depends on the input
        betas = _usual_betas(activation)
        at = {name: value.repeat(len(betas)) for name, value in at.items()}
        at['beta'] = betas.flatten()
    return curves(lambda z: function(z, **at), next(iter(at.values())).numel(), limit)


def _usual_betas(activation: nn.Module) -> Tensor:
    """β of Meta-ACON, (values, channels): the usual ones as its last norm has them; without a norm, all over (0, 1)."""
    if _knows_betas(activation):
        norm = activation.bn2  # over the training data, its results have this mean and deviation
        mean, deviation = norm.bias.detach().float(), norm.weight.detach().float().abs()
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
    figure.suptitle('\n'.join([title, *_notes(sites, several)]))
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
    for site, color in zip(panel, _colors(len(panel))):
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
    _cross(axis, limit)
    return several


def _add_scale(figure: Figure, grid: np.ndarray) -> None:
    scale = ScalarMappable(cmap=ListedColormap(_colors(256)))
    bar = figure.colorbar(scale, ax=grid, location='right', aspect=30, shrink=0.4, pad=0.01, ticks=(0, 1))
    bar.ax.set_yticklabels(['first of\na panel', 'last of\na panel'], fontsize=8)
    bar.outline.set_visible(False)


# Both


def _colors(count: int) -> np.ndarray:
    return matplotlib.colormaps['viridis'](np.linspace(0, 0.88, count))


def _cross(axis, limit: float) -> None:
    axis.axhline(0, color='0.8', linewidth=0.8, zorder=0)
    axis.axvline(0, color='0.8', linewidth=0.8, zorder=0)
    axis.set_xlim(-limit, limit)
    axis.tick_params(labelsize=8)
    axis.spines[['top', 'right']].set_visible(False)


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path

"""Pictures of activations: what their parameters do."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from mmdet.registry import MODELS
from tqdm import tqdm

from apa_mmdet.models.activations import build_activation

from .activation_curves import FAMILIES, Curves, colors, cross, curves, save


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
    bar = tqdm(figures.items(), 'drawing', unit='picture', disable=None, leave=False)
    return [save(figure, out / f'{kind}.png') for kind, figure in bar]


def type_figure(kind: str, limit: float) -> Figure:
    """A column for each parameter: values above, first derivatives below."""
    columns = list(_sweeps(kind, limit)) if kind in FAMILIES else [('', [''], _as_built(kind, limit))]
    figure = Figure(figsize=(1 + 3.3 * len(columns), 6), layout='constrained')
    axes = figure.subplots(2, len(columns), sharex=True, sharey='row', squeeze=False)
    for (title, labels, found), (upper, lower) in zip(columns, axes.T):
        for i, (label, color) in enumerate(zip(labels, colors(len(labels)))):
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
        cross(axis, limit)
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

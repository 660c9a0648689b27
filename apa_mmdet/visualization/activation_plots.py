"""Figures of activations over their parameters."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from mmdet.registry import MODELS
from tqdm import tqdm

from apa_mmdet.models.activations import LearnableActivation, build_activation, learnable_activations
from apa_mmdet.utils.errors import CodedError

from .activation_curves import Curves, colors, sample, save, style_axis

LEGEND = dict(fontsize=8, frameon=False, columnspacing=1, loc='upper center', bbox_to_anchor=(0.5, -0.2))


def draw_types(types: Sequence[str], out: Path, limit: float = 5.0) -> list[Path]:
    """Draws each activation with its first derivative over its parameters; ``out/<type>.png``.

    Args:
        types: names of registered activations. Those without ``symbols`` are drawn as they are built.
        out: folder of the figures.
        limit: inputs range from −limit to limit.

    Raises:
        CodedError: ``unknown-activation`` or ``not-an-activation``.
    """
    figures = {name: type_figure(name, limit) for name in types}
    bar = tqdm(figures.items(), 'drawing', unit='figure', disable=None, leave=False)
    return [save(figure, out / f'{name}.png') for name, figure in bar]


def type_figure(name: str, limit: float) -> Figure:
    """Draws a column for each parameter: values above, first derivatives below."""
    cls = MODELS.get(name)
    note = ''
    if isinstance(cls, type) and issubclass(cls, LearnableActivation) and cls.symbols:
        columns, note = list(_sweeps(cls, limit)), cls.note
    else:
        columns = [('', [''], _as_built(name, limit))]
    figure = Figure(figsize=(1 + 3.3 * len(columns), 6), layout='constrained')
    axes = figure.subplots(2, len(columns), sharex=True, sharey='row', squeeze=False)
    for (title, labels, curves), (upper, lower) in zip(columns, axes.T):
        for i, (label, color) in enumerate(zip(labels, colors(len(labels)))):
            upper.plot(curves.x, curves.value[:, i], color=color, label=label)
            lower.plot(curves.x, curves.slope[:, i], color=color)
        upper.set_title(title, fontsize=10)
        lower.set_xlabel('z')
        if len(labels) > 1:
            lower.legend(*upper.get_legend_handles_labels(), ncols=(len(labels) + 1) // 2, **LEGEND)
    for axis in axes.flat:
        style_axis(axis, limit)
    axes[0, 0].set_ylabel('value')
    axes[1, 0].set_ylabel('first derivative')
    figure.suptitle(f'{name}: {note}' if note else name)
    return figure


def _sweeps(cls: type[LearnableActivation], limit: float) -> Iterable[tuple[str, list[str], Curves]]:
    """Yields for each symbol a title, the label of each value, and the curves."""
    for varied, (text, values, *_) in cls.symbols.items():
        constant = {name: symbol.rest for name, symbol in cls.symbols.items()} | cls.fixed
        at = {name: torch.full((len(values),), float(value)) for name, value in constant.items()}
        at[varied] = torch.tensor(values, dtype=torch.float32)
        others = ', '.join(f'{s.text} = {s.rest:g}' for name, s in cls.symbols.items() if name != varied)
        yield (
            f'{text} varies' + (f', {others}' if others else ''),
            [f'{text} = {value:g}'.replace('-', '−') for value in values],
            sample(partial(cls.function, **at), len(values), limit),
        )


def _as_built(name: str, limit: float) -> Curves:
    if MODELS.get(name) is None:
        names = ', '.join(learnable_activations())
        line = f'activation {name!r} is not registered; the learnable activations are {names}'
        raise CodedError('unknown-activation', line)
    try:
        activation = build_activation(dict(type=name), 1).eval()
        curves = sample(lambda z: activation(z.clone()), 1, limit)  # some work in place
        far = torch.tensor([[-100.0], [100.0]])
        changes = not torch.equal(activation(far.clone()), far)  # unlike a dropout or an identity
    except (TypeError, RuntimeError, ValueError):
        changes = False
    if not changes:
        raise CodedError(
            'not-an-activation',
            f'{name!r} is registered, but is not an elementwise activation that can be built from its name alone',
        )
    return curves

"""Curves of the learnable activations, and what all pictures of them share."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from apa_mmdet import ops

POINTS = 801


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


def colors(count: int) -> np.ndarray:
    """From dark to light, but not so light that it would be hard to see on white; (``count``, RGBA)."""
    return matplotlib.colormaps['viridis'](np.linspace(0, 0.88, count))


def cross(axis, limit: float) -> None:
    """The lines through 0, and the look of a panel."""
    axis.axhline(0, color='0.8', linewidth=0.8, zorder=0)
    axis.axvline(0, color='0.8', linewidth=0.8, zorder=0)
    axis.set_xlim(-limit, limit)
    axis.tick_params(labelsize=8)
    axis.spines[['top', 'right']].set_visible(False)


def save(figure: Figure, path: Path) -> Path:
    """Write a picture; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path

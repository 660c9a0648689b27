"""Samples the curves of activations, and styles the figures that show them."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

POINTS = 801


class Curves(NamedTuple):
    """Values and first derivatives at ``x``, (points, curves); NaN where the derivative jumps."""

    x: np.ndarray
    value: np.ndarray
    slope: np.ndarray


def sample(function: Callable[[Tensor], Tensor], count: int, limit: float) -> Curves:
    """Samples an elementwise function of (points, ``count``) from −``limit`` to ``limit``."""
    x = torch.linspace(-limit, limit, POINTS)
    z = x[:, None].repeat(1, count).requires_grad_()
    value = function(z)
    (slope,) = torch.autograd.grad(value.sum(), z)
    slope = slope.numpy()
    step = np.abs(np.diff(slope, axis=0, prepend=slope[:1], append=slope[-1:]))
    jump = step[1:-1] > 5 * np.maximum(step[:-2], step[2:]) + 1e-3  # between two points, and nothing similar beside it
    slope[1:][jump] = np.nan
    return Curves(x.numpy(), value.detach().numpy(), slope)


def colors(count: int) -> np.ndarray:
    """Returns colors from dark to light, all dark enough for a white background; (``count``, RGBA)."""
    return matplotlib.colormaps['viridis'](np.linspace(0, 0.88, count))


def style_axis(axis, limit: float) -> None:
    """Draws the lines through 0 and sets the style of a panel."""
    axis.axhline(0, color='0.8', linewidth=0.8, zorder=0)
    axis.axvline(0, color='0.8', linewidth=0.8, zorder=0)
    axis.set_xlim(-limit, limit)
    axis.tick_params(labelsize=8)
    axis.spines[['top', 'right']].set_visible(False)


def save(figure: Figure, path: Path) -> Path:
    """Writes a figure; creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path

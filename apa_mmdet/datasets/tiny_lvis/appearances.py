"""Appearances of the drawn objects: a surface in a color, which may bear a mark.

Coordinates ``u``, ``v`` are those of the object, of which the unit circle holds every shape; ``v`` points down. Colors
are BGR, as in OpenCV.
"""

import colorsys
from typing import NamedTuple

import numpy as np


class Appearance(NamedTuple):
    """A surface of one or two colors: hue in degrees, its jitter, the range of values, the second color, a mark.

    The second color has the hue of the first, and a saturation and a value of its own. Marks are keys of ``MARKS``.
    """

    surface: str
    hue: float
    jitter: float
    values: tuple[float, float]
    second: tuple[float, float] | None = None
    mark: str = 'blank'


# The hues lie 48 degrees or more apart, so that they stay distinct under moderate hue jitter in training.
APPEARANCES = {
    'checkered_yellow': Appearance('checkered', 52, 5, (0.88, 1.0), (0.6, 0.22)),
    'dotted_blue': Appearance('dotted', 222, 8, (0.7, 0.95), (0.12, 1.0)),
    'plain_green': Appearance('plain', 125, 10, (0.55, 0.85)),
    'plain_purple': Appearance('plain', 290, 8, (0.6, 0.9)),
    'striped_cyan': Appearance('striped', 174, 6, (0.75, 0.95), (0.3, 0.25)),
    'striped_red': Appearance('striped', 358, 6, (0.75, 0.95), (0.06, 1.0)),
}

# The share of a mark at distance d inside its edge, in object units; negative outside. Each is the same after a flip
# and, on every shape, lies around the center or at the top.
MARKS = dict(
    bar=lambda u, v: 0.17 - np.abs(v),
    blank=lambda u, v: np.full_like(u, -np.inf),
    cap=lambda u, v: -0.27 - v,
    dot=lambda u, v: 0.3 - np.hypot(u, v),
    ring=lambda u, v: 0.12 - np.abs(np.hypot(u, v) - 0.5),
)
DARK = 40  # the gray of marks: no surface is as dark

# Two pairs of close colors; on white, that the dark marks are seen on every surface.
COLORS = dict(blue=(212, 5), orange=(30, 4), red=(356, 4), violet=(266, 5))  # hue and jitter
SURFACES = ('checkered', 'plain', 'striped')
MARKED = {
    f'{mark}_{surface}_{color}': Appearance(
        surface, *COLORS[color], (0.75, 0.95), None if surface == 'plain' else (0.08, 1.0), mark
    )
    for mark in MARKS
    for surface in SURFACES
    for color in COLORS
}


def bgr(hue: float, saturation: float, value: float) -> np.ndarray:
    """The color of a hue in degrees, saturation and value within [0, 1]; (3,) float, within [0, 255]."""
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value)[::-1], np.float32)


def _surface(name: str, u: np.ndarray, v: np.ndarray, pixels: float, rng: np.random.Generator) -> np.ndarray:
    """The share of the second color at ``(u, v)``; ``pixels`` per unit sets how soft the edges are."""
    phase = rng.uniform(0, 2 * np.pi, 2)
    if name == 'striped':
        wave = np.sin(2 * np.pi * v / 0.5 + phase[0]) - 0.1
    elif name == 'dotted':
        wave = np.cos(2 * np.pi * u / 0.56 + phase[0]) + np.cos(2 * np.pi * v / 0.56 + phase[1]) - 0.75
    elif name == 'checkered':
        wave = np.sin(2 * np.pi * u / 0.72 + phase[0]) * np.sin(2 * np.pi * v / 0.72 + phase[1]) * 1.5
    else:
        return np.zeros_like(u)
    return np.clip(0.5 + wave * max(1.0, pixels / 14), 0, 1)


def paint(
    name: str, shape_hw: tuple[int, int], inverse: np.ndarray, pixels: float, rng: np.random.Generator
) -> np.ndarray:
    """The colors (h, w, 3) of an object's box.

    Args:
        name: a key of ``APPEARANCES`` or ``MARKED``.
        shape_hw: height and width of the box in pixels.
        inverse: (2, 2), maps centered pixels to object units.
        pixels: per object unit.
        rng: the only source of randomness.
    """
    h, w = shape_hw
    y, x = np.mgrid[:h, :w] + 0.5
    xy = np.stack([x - w / 2, y - h / 2], -1) @ inverse.T
    surface, hue, jitter, values, second, mark = APPEARANCES[name] if name in APPEARANCES else MARKED[name]
    first = bgr(hue + rng.uniform(-jitter, jitter), rng.uniform(0.8, 1), rng.uniform(*values))
    other = first if second is None else bgr(hue, *second)
    share = _surface(surface, xy[..., 0], xy[..., 1], pixels, rng)[..., None]
    direction = rng.uniform(0, 2 * np.pi)
    light = xy[..., :1] * np.cos(direction) + xy[..., 1:] * np.sin(direction)
    color = first * (1 - share) + other * share
    if mark != 'blank':
        marked = np.clip(0.5 + pixels * MARKS[mark](xy[..., 0], xy[..., 1]), 0, 1)[..., None]
        color += marked * (DARK - color)
    return color * (rng.uniform(0.92, 1.06) + rng.uniform(0.05, 0.18) * light)

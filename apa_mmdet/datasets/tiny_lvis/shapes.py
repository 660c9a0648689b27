"""Shapes of the drawn objects: contours within the unit circle."""

import numpy as np


def _arc(start: float, stop: float, n: int = 40, radius: float = 1.0, center: float = 0.0) -> np.ndarray:
    angle = np.radians(np.linspace(start, stop, n))
    return np.stack([center + radius * np.cos(angle), radius * np.sin(angle)], 1)


def _spikes(n: int, inner: float, foot: float, top: float) -> np.ndarray:
    """``n`` spikes between the radii ``inner`` and 1; ``foot`` and ``top`` are their widths, 1 leaves no gap."""
    radius = np.array([inner, 1, 1, inner])
    angle = (2 * np.arange(n)[:, None] + np.array([-foot, -top, top, foot])) * np.pi / n
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1).reshape(-1, 2)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], 1) / 16


def _cross() -> np.ndarray:
    x = np.array([-0.3, 0.3, 0.3, 1, 1, 0.3, 0.3, -0.3, -0.3, -1, -1, -0.3])
    return np.stack([x, np.roll(x, 3)], 1)


# A second contour is a hole. The vertical axis points down.
SHAPES = dict(
    crescent=[np.concatenate([_arc(50, 310), _arc(-75.3, -284.7, radius=0.792, center=0.442)])],
    cross=[_cross()],
    disk=[_arc(0, 351)],
    heart=[_heart()],
    ring=[_arc(0, 351), _arc(0, 351, radius=0.55)],
    square=[0.7 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])],
    star=[_spikes(5, 0.42, 1, 0)[:, ::-1] * [1, -1]],
    triangle=[_arc(-90, 150, 3)],
)

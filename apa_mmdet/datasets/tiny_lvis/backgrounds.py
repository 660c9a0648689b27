"""Textured, dull backgrounds of the drawn scenes."""

import cv2
import numpy as np

from .appearances import bgr


def _noise(rng: np.random.Generator, h: int, w: int, cells: int) -> np.ndarray:
    grid = rng.random((cells + 1, cells + 1), np.float32)
    return np.clip(cv2.resize(grid, (w, h), interpolation=cv2.INTER_CUBIC), 0, 1)


def _octaves(rng: np.random.Generator, h: int, w: int, first: int = 2, levels: int = 5) -> np.ndarray:
    parts = [_noise(rng, h, w, first * 2**k) * 0.65**k for k in range(levels)]
    total = np.sum(parts, 0)
    return (total - total.min()) / (np.ptp(total) + 1e-6)


def _ramp(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    """A ramp from 0 to 1 over the image, in a random direction."""
    y, x = np.mgrid[:h, :w].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = x / w * np.cos(angle) + y / h * np.sin(angle)
    return (ramp - ramp.min()) / np.ptp(ramp)


def _gradient(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    return 0.75 * _ramp(rng, h, w) + 0.25 * _octaves(rng, h, w, 8, 3)


def _bands(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    warp = rng.uniform(0, 0.3) * _noise(rng, h, w, 3)
    return 0.5 + 0.4 * np.sin(2 * np.pi * rng.uniform(4, 14) * (_ramp(rng, h, w) + warp))


def _blotches(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    return 1 / (1 + np.exp(-rng.uniform(10, 30) * (_octaves(rng, h, w, int(rng.integers(3, 9)), 3) - 0.5)))


def draw_background(rng: np.random.Generator, w: int, h: int) -> np.ndarray:
    """A textured background (h, w, 3) of two dull colors, unlike any object: these are saturated."""
    texture = (_gradient, _octaves, _bands, _blotches)[rng.integers(4)]
    mix = (0.85 * texture(rng, h, w) + 0.15 * _octaves(rng, h, w, 16, 3))[..., None].astype(np.float32)
    hue, value = rng.uniform(0, 360), rng.uniform(0.25, 0.75)
    first = bgr(hue, rng.uniform(0, 0.28), value)
    step = rng.uniform(0.1, 0.28) * (1 if value < 0.5 else -1)
    second = bgr(hue + rng.uniform(-90, 90), rng.uniform(0, 0.28), value + step)
    return first * (1 - mix) + second * mix

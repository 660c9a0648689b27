"""Draws the scenes of the tiny LVIS: textured backgrounds, colored shapes, occlusion.

An object is a shape (``SHAPES``) with an appearance (``APPEARANCES``: a surface and a color family). Masks are drawn
``SUPERSAMPLE`` times finer than the image, so that edges are soft, polygons are exact to about an eighth of a pixel,
and the ground truth is what is visible after occlusion.

Coordinates: pixel ``i`` covers ``[i, i + 1)``, as in COCO's polygons. Colors are BGR, as in OpenCV.
"""

import colorsys
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

SUPERSAMPLE = 4
MIN_EXTENT = 16  # pixels; below it stripes and dots blend into one color
MIN_VISIBLE = 0.45  # of an object's area; with less, a square looks like a cross
MIN_SEEN = 90  # square pixels that stay visible of a small object; thin ones are hardly ever occluded
RIM = 9  # fine pixels; twice the width of the dark rim of an object
MIN_PIECE = 4  # square pixels; smaller fragments of an occluded object are not in its polygons


class Views(NamedTuple):
    """How much objects vary: scale (longer side / shorter side of the image, drawn log-uniformly), tilt, brightness."""

    scale: tuple[float, float]
    tilt: float
    light: tuple[float, float]


# tilt: a few hundred steps from random weights do not learn shapes under every rotation
SCENE = Views((0.12, 0.5), np.radians(20), (0.85, 1.12))
ALONE = Views((0.3, 0.9), np.radians(45), (0.6, 1.25))  # one object an image, for classification


class SceneObject(NamedTuple):
    """The visible part of an object: ``polygons``, (N, 2) float arrays in pixels, and its share of the object."""

    polygons: list[np.ndarray]
    visible: float


# ---------------------------------------------------------------- shapes: contours within the unit circle


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

# ---------------------------------------------------------------- appearances: a surface on a color family

# name: (hue in degrees, hue jitter, value range, (saturation, value) of the second color).
# The hues lie 48 degrees or more apart, so that they stay distinct under moderate hue jitter in training.
APPEARANCES = {
    'checkered_yellow': (52, 5, (0.88, 1.0), (0.6, 0.22)),
    'dotted_blue': (222, 8, (0.7, 0.95), (0.12, 1.0)),
    'plain_green': (125, 10, (0.55, 0.85), None),
    'plain_purple': (290, 8, (0.6, 0.9), None),
    'striped_cyan': (174, 6, (0.75, 0.95), (0.3, 0.25)),
    'striped_red': (358, 6, (0.75, 0.95), (0.06, 1.0)),
}


def _surface(name: str, u: np.ndarray, v: np.ndarray, pixels: float, rng: np.random.Generator) -> np.ndarray:
    """The share of the second color at ``(u, v)``; ``pixels`` per unit sets how soft the edges are."""
    phase = rng.uniform(0, 2 * np.pi, 2)
    if name.startswith('striped'):
        wave = np.sin(2 * np.pi * v / 0.5 + phase[0]) - 0.1
    elif name.startswith('dotted'):
        wave = np.cos(2 * np.pi * u / 0.56 + phase[0]) + np.cos(2 * np.pi * v / 0.56 + phase[1]) - 0.75
    elif name.startswith('checkered'):
        wave = np.sin(2 * np.pi * u / 0.72 + phase[0]) * np.sin(2 * np.pi * v / 0.72 + phase[1]) * 1.5
    else:
        return np.zeros_like(u)
    return np.clip(0.5 + wave * max(1.0, pixels / 14), 0, 1)


def _bgr(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.array(colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value)[::-1], np.float32)


def _paint(
    appearance: str, shape_hw: tuple[int, int], inverse: np.ndarray, pixels: float, rng: np.random.Generator
) -> np.ndarray:
    """The colors (h, w, 3) of an object's box; ``inverse`` (2, 2) maps centered pixels to object units."""
    h, w = shape_hw
    y, x = np.mgrid[:h, :w] + 0.5
    xy = np.stack([x - w / 2, y - h / 2], -1) @ inverse.T
    hue, jitter, values, second = APPEARANCES[appearance]
    first = _bgr(hue + rng.uniform(-jitter, jitter), rng.uniform(0.8, 1), rng.uniform(*values))
    other = first if second is None else _bgr(hue, *second)
    share = _surface(appearance, xy[..., 0], xy[..., 1], pixels, rng)[..., None]
    direction = rng.uniform(0, 2 * np.pi)
    light = xy[..., :1] * np.cos(direction) + xy[..., 1:] * np.sin(direction)
    return (first * (1 - share) + other * share) * (rng.uniform(0.92, 1.06) + rng.uniform(0.05, 0.18) * light)


# ---------------------------------------------------------------- backgrounds


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
    first = _bgr(hue, rng.uniform(0, 0.28), value)
    step = rng.uniform(0.1, 0.28) * (1 if value < 0.5 else -1)
    second = _bgr(hue + rng.uniform(-90, 90), rng.uniform(0, 0.28), value + step)
    return first * (1 - mix) + second * mix


# ---------------------------------------------------------------- scenes


def _transform(shape: str, extent: float, tilt: float, rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
    """Rotated, sheared, stretched contours whose longer side is ``extent`` pixels, centered on 0; and their matrix."""
    angle, shear = rng.uniform(-tilt, tilt), rng.uniform(-0.15, 0.15)
    stretch = np.exp(rng.uniform(-1, 1) * np.log(1.15) / 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1, shear], [0, 1]]) @ np.diag([stretch, 1 / stretch])
    outline = SHAPES[shape][0] @ matrix.T
    low, high = outline.min(0), outline.max(0)
    scale = extent / (high - low).max()
    return [scale * (c @ matrix.T - (low + high) / 2) for c in SHAPES[shape]], scale * matrix


def _fill(contours: list[np.ndarray], center: np.ndarray, w: int, h: int) -> tuple[tuple[int, int], np.ndarray]:
    """The fine mask (bool) of an object, cropped to it, and its offset ``(x0, y0)`` in whole pixels."""
    points = np.concatenate(contours) + center
    x0, y0 = np.floor(np.maximum(points.min(0), 0)).astype(int)
    x1, y1 = np.ceil(np.minimum(points.max(0), (w, h))).astype(int)
    mask = np.zeros(((y1 - y0) * SUPERSAMPLE, (x1 - x0) * SUPERSAMPLE), np.uint8)
    fine = [np.round((c + center - (x0, y0)) * SUPERSAMPLE - 0.5).astype(np.int32) for c in contours]
    cv2.fillPoly(mask, fine, 1)
    return (x0, y0), mask.astype(bool)


class _Canvas:
    """Which object is visible where (``owner``, on the fine grid; -1 is the background), and how much of each."""

    def __init__(self, w: int, h: int) -> None:
        self.w, self.h = w, h
        self.owner = np.full((h * SUPERSAMPLE, w * SUPERSAMPLE), -1, np.int8)
        self.full, self.seen, self.centers = np.zeros(0), np.zeros(0), []

    def window(self, corner: tuple[int, int], mask: np.ndarray) -> np.ndarray:
        x, y = corner[0] * SUPERSAMPLE, corner[1] * SUPERSAMPLE
        return self.owner[y : y + mask.shape[0], x : x + mask.shape[1]]

    def place(
        self, contours: list[np.ndarray], extent: float, rng: np.random.Generator
    ) -> tuple[tuple[int, int], np.ndarray] | None:
        """Put an object on top where it leaves enough of the others: corner and mask, or None if it cannot."""
        area = sum(cv2.contourArea(c.astype(np.float32)) * (-1) ** k for k, c in enumerate(contours))
        area *= SUPERSAMPLE**2
        margin = 0.42 * extent  # up to a twelfth of an object may be outside the image on each side
        for _ in range(12):
            if self.centers and rng.random() < 0.2:  # near another: purely random places seldom occlude
                center = self.centers[rng.integers(len(self.centers))] + rng.normal(0, 0.7 * extent, 2)
                center = np.clip(center, margin, (self.w - margin, self.h - margin))
            else:
                center = rng.uniform(margin, (self.w - margin, self.h - margin))
            corner, mask = _fill(contours, center, self.w, self.h)
            hidden = np.bincount(self.window(corner, mask)[mask] + 1, minlength=len(self.full) + 1)[1:]
            seen = np.append(self.seen - hidden, mask.sum())
            full = np.append(self.full, area)
            # 0.9: the border may cut off some of a small object, too
            if (seen >= np.maximum(MIN_VISIBLE * full, np.minimum(0.9 * full, MIN_SEEN * SUPERSAMPLE**2))).all():
                self.window(corner, mask)[mask] = len(self.full)
                self.full, self.seen = full, seen
                self.centers.append(center)
                return corner, mask
        return None


def _polygons(mask: np.ndarray, origin: tuple[int, int] = (0, 0)) -> list[np.ndarray]:
    """Polygons, in pixels, of a fine mask. Polygons have no holes: a part with one is cut in two through it."""
    contours, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    holes = [] if tree is None else [c for c, t in zip(contours, tree[0]) if t[3] >= 0]
    if holes:
        column = int(holes[0][:, 0, 0].mean().round())
        left = _polygons(mask[:, : column + 1], origin)  # both halves keep the column: no gap between them
        return left + _polygons(mask[:, column:], (origin[0] + column, origin[1]))
    polygons = []
    for contour in contours:
        contour = cv2.approxPolyDP(contour, 0.3 * SUPERSAMPLE, True)[:, 0]
        polygon = (contour + np.array(origin) + 0.5) / SUPERSAMPLE
        if len(polygon) >= 3 and cv2.contourArea(polygon.astype(np.float32)) >= MIN_PIECE:
            polygons.append(polygon)
    return polygons


def _paint_objects(
    image: np.ndarray, objects: Sequence[tuple[str, str]], shrink: float, views: Views, rng: np.random.Generator
) -> _Canvas | None:
    """Paint ``objects`` on ``image``, in order; returns the canvas, or None if there is no place for one."""
    h, w = image.shape[:2]
    canvas, side = _Canvas(w, h), min(w, h)
    low = max(MIN_EXTENT, views.scale[0] * side)
    for shape, appearance in objects:
        extent = max(low, shrink * np.exp(rng.uniform(np.log(low), np.log(max(low, views.scale[1] * side)))))
        contours, matrix = _transform(shape, extent, views.tilt, rng)
        placed = canvas.place(contours, extent, rng)
        if placed is None:
            return None
        (x, y), mask = placed
        alpha = cv2.resize(
            mask.astype(np.float32), None, fx=1 / SUPERSAMPLE, fy=1 / SUPERSAMPLE, interpolation=cv2.INTER_AREA
        )[..., None]
        colors = _paint(appearance, alpha.shape[:2], np.linalg.inv(matrix), np.sqrt(abs(np.linalg.det(matrix))), rng)
        # a darker rim separates overlapping objects of one color
        fine = cv2.blur(mask.astype(np.float32), (RIM, RIM), borderType=cv2.BORDER_CONSTANT)
        rim = cv2.resize(fine, alpha.shape[1::-1], interpolation=cv2.INTER_AREA)[..., None]
        colors = colors * np.clip(2.2 * rim - 1.2, 0.35, 1)
        window = image[y : y + alpha.shape[0], x : x + alpha.shape[1]]
        window += alpha * (colors - window)
    return canvas


def draw_scene(
    objects: Sequence[tuple[str, str]], size: tuple[int, int], rng: np.random.Generator, views: Views = SCENE
) -> tuple[np.ndarray, list[SceneObject]]:
    """Draw a scene.

    Args:
        objects: (shape, appearance) pairs, from the back to the front: keys of ``SHAPES`` and ``APPEARANCES``.
        size: (width, height) in pixels, each 64 or more.
        rng: the only source of randomness.
        views: how much the objects vary.

    Returns:
        The image, (height, width, 3) uint8 BGR, and one ``SceneObject`` for each of ``objects``. At least
        ``MIN_VISIBLE`` of its area is visible, after occlusion and cropping by the border.
    """
    w, h = size
    background = draw_background(rng, w, h)
    for attempt in range(200):
        image = background.copy()
        canvas = _paint_objects(image, objects, 0.95**attempt, views, rng)  # a crowded scene gets smaller objects
        if canvas is None:
            continue
        shares = (canvas.seen / canvas.full).tolist()
        visible = [SceneObject(_polygons(canvas.owner == k), share) for k, share in enumerate(shares)]
        if all(part.polygons for part in visible):
            break
    else:
        raise RuntimeError(f'{len(objects)} objects do not fit into {w}x{h} pixels')
    image = image * rng.uniform(*views.light) + rng.normal(0, rng.uniform(1.5, 5), (h, w, 3))
    return np.clip(image.round(), 0, 255).astype(np.uint8), visible

"""Draws scenes: textured backgrounds, colored shapes, occlusion.

An object is a shape (``SHAPES``) with an appearance (a key of ``APPEARANCES`` or ``MARKED``). Masks are drawn
``SUPERSAMPLE`` times finer than the image, so that edges are soft, polygons are exact to about an eighth of a pixel,
and the ground truth is what is visible after occlusion.

Coordinates: pixel ``i`` covers ``[i, i + 1)``, as in COCO's polygons. Colors are BGR, as in OpenCV.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from .appearances import paint
from .backgrounds import draw_background
from .shapes import SHAPES

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
CROWDED = Views((0.19, 0.42), np.radians(20), (0.85, 1.12))  # of 128 pixels, 24 to 54: below, marks are not seen
ALONE = Views((0.3, 0.9), np.radians(45), (0.6, 1.25))  # one object an image, for classification


class SceneObject(NamedTuple):
    """The visible part of an object: ``polygons``, (N, 2) float arrays in pixels, and its share of the object."""

    polygons: list[np.ndarray]
    visible: float


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
        colors = paint(appearance, alpha.shape[:2], np.linalg.inv(matrix), np.sqrt(abs(np.linalg.det(matrix))), rng)
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
        objects: (shape, appearance) pairs, from the back to the front: a key of ``SHAPES``, one of ``APPEARANCES`` or
            ``MARKED``.
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

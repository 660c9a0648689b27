"""Drawn scenes: polygons cover what is visible, occlusion is limited, any size has room."""

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_utils

from apa_mmdet.datasets.tiny_lvis import scenes as tiny_scenes
from apa_mmdet.datasets.tiny_lvis.appearances import MARKED, MARKS
from apa_mmdet.datasets.tiny_lvis.shapes import SHAPES
from apa_mmdet.datasets.tiny_lvis.vocabularies import SOLID


def draw(objects, size=(160, 160), seed=0):
    return tiny_scenes.draw_scene(objects, size, np.random.default_rng(seed))


def decode(polygons, w, h):
    return mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(polygons, h, w)))


@pytest.mark.parametrize('shape', SHAPES)
def test_polygons_cover_what_was_drawn(shape):
    # the plain surface has one hue far from any dull ground: what is saturated is the object
    image, (seen,) = draw([(shape, 'plain_green')], seed=5)
    drawn = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)[..., 1] > 140
    mask = decode([p.reshape(-1) for p in seen.polygons], 160, 160).astype(bool)
    assert (drawn & mask).sum() / (drawn | mask).sum() > 0.85


def test_a_ring_has_a_hole():
    _, (seen,) = draw([('ring', 'plain_green')], seed=1)
    mask = decode([p.reshape(-1) for p in seen.polygons], 160, 160)
    _, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    assert any(t[3] >= 0 for t in tree[0])
    # the outer contour of the mask less the hole: 1 - 0.55^2 of the disk
    outer, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.fillPoly(np.zeros((160, 160), np.uint8), outer, 1)
    assert mask.sum() / filled.sum() == pytest.approx(1 - 0.55**2, rel=0.08)


def test_occlusion_leaves_enough_of_every_object():
    shares = []
    for seed in range(30):
        _, seen = draw(
            [('disk', 'dotted_blue'), ('square', 'plain_green'), ('cross', 'striped_red')] * 2, (128, 128), seed
        )
        total = sum(decode([p.reshape(-1) for p in part.polygons], 128, 128).astype(int) for part in seen)
        assert (total > 1).mean() < 0.01  # but for seams, no pixel belongs to two
        shares += [part.visible for part in seen]
    assert min(shares) >= tiny_scenes.MIN_VISIBLE
    assert 0.15 < np.mean(np.array(shares) < 0.9) < 0.8


@pytest.mark.parametrize('size', [(64, 64), (64, 200), (300, 150)])
def test_crowded_scenes_fit_into_any_size(size):
    for seed in range(5):
        image, seen = draw(
            [('crescent', 'dotted_blue'), ('ring', 'plain_green'), ('star', 'striped_red')] * 2, size, seed
        )
        assert image.shape == (size[1], size[0], 3) and image.dtype == np.uint8
        assert len(seen) == 6


@pytest.mark.parametrize('shape', SOLID)
def test_each_mark_is_a_dark_part_of_the_object_that_no_other_has(shape):
    dark = {}
    for mark in MARKS:
        image, (seen,) = draw([(shape, f'{mark}_plain_orange')], seed=3)
        mask = cv2.erode(decode([p.reshape(-1) for p in seen.polygons], 160, 160), np.ones((3, 3)))  # without the rim
        dark[mark] = (image.max(2) < 90) & mask.astype(bool)
    assert dark.pop('blank').sum() < 0.03 * mask.sum()
    for mark, pixels in dark.items():
        assert 0.05 < pixels.sum() / mask.sum() < 0.6, mark
        for other in dark.keys() - {mark}:
            assert (pixels & dark[other]).sum() / (pixels | dark[other]).sum() < 0.6, (mark, other)


def test_crowds_of_marked_objects_fit_into_small_images():
    rng = np.random.default_rng(0)
    names = sorted(MARKED)
    for seed in range(4):
        objects = [(SOLID[rng.integers(6)], names[rng.integers(len(names))]) for _ in range(8)]
        for size in ((64, 64), (128, 128)):
            _, seen = tiny_scenes.draw_scene(objects, size, np.random.default_rng(seed), tiny_scenes.CROWDED)
            assert len(seen) == 8 and min(part.visible for part in seen) >= tiny_scenes.MIN_VISIBLE

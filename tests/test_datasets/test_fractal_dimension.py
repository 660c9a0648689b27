"""Fractal dimension of the centers of boxes, against the recorded figures, the published ones and a plain loop."""

import itertools
import json

import numpy as np
import pytest
from helpers.paths import ROOT
from helpers.recordings import load

from apa_mmdet.datasets.fractal_dimension import fractal_dimension


def by_loop(centers):
    """Of one class, cell by cell."""
    sides = [d for d in range(1, 65) if d * d <= len(centers)]
    if len(centers) < 4:
        return 1.0
    cells = [len({(min(int(x * d), d - 1), min(int(y * d), d - 1)) for x, y in centers}) for d in sides]
    return max(1.0, np.polyfit(np.log(sides), np.log(cells), 1)[0])


def test_the_recorded_boxes_have_the_recorded_dimensions():
    recorded = load('fracal.npz')
    boxes = recorded['boxes']
    found = fractal_dimension(boxes[:, 1:3] + boxes[:, 3:] / 2, boxes[:, 0].astype(int) - 1, 24)
    np.testing.assert_allclose(found, recorded['fractal_dimension'], atol=1e-6)


def test_classes_of_all_sizes_match_a_plain_loop():
    rng = np.random.default_rng(0)
    sizes = [0, 1, 3, 4, 8, 9, 100, 5000, 0]
    centers = [rng.random((n, 2)) ** (1, 1 + 3 * (n == 100)) for n in sizes]
    labels = np.repeat(np.arange(len(sizes)), sizes)
    order = rng.permutation(len(labels))
    found = fractal_dimension(np.concatenate(centers)[order], labels[order], len(sizes))
    np.testing.assert_allclose(found, [by_loop(c) for c in centers], atol=1e-12)
    assert found[7] > 1.9 and (found[:3] == 1).all()


def test_a_line_has_one_dimension_and_a_filled_square_two():
    side = (np.arange(64) + 0.5) / 64
    line = np.stack([np.linspace(0, 1, 4096), np.full(4096, 0.3)], 1)
    square = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    found = fractal_dimension(np.concatenate([line, square]), np.repeat([0, 1], 4096), 2)
    np.testing.assert_allclose(found, [1, 2], atol=1e-12)


def test_centers_outside_their_image_and_no_instances():
    far = np.array([[-5.0, 0.1], [9.0, 0.1], [0.1, 1e9], [1.0, 1.0]])
    assert fractal_dimension(far, np.zeros(4, int), 1)[0] == pytest.approx(2.0)
    assert fractal_dimension(np.zeros((0, 2)), np.zeros(0, int), 2).tolist() == [1.0, 1.0]


@pytest.mark.parametrize('grids, classes', [(1, 103), (2, 86), (3, 93)])
def test_the_published_dimensions_of_lvis_are_possible_for_their_instances(grids, classes):
    """Those of classes with few instances, of which few grids count, are slopes of possible numbers of cells."""
    content = json.loads((ROOT / 'configs/_base_/datasets/lvis_v1_class_frequency.json').read_text())
    low, high = (grids**2 if grids > 1 else 0), (grids + 1) ** 2
    published = [c['fractal_dimension'] for c in content['categories'] if low <= c['instance_count'] < high]
    numbers = itertools.product(*(range(1, d * d + 1) for d in range(2, grids + 1)))
    x = np.log(np.arange(1, grids + 1))
    slopes = [max(1, np.polyfit(x, np.log([1, *n]), 1)[0]) if grids > 1 else 1.0 for n in numbers]
    assert len(published) == classes
    assert np.abs(np.subtract.outer(published, slopes)).min(1).max() < 1e-6

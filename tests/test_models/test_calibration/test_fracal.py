"""FRACAL against the recorded scores of the published implementation, in every link and dtype."""

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from helpers.recordings import load

from apa_mmdet.models.calibration import FRACAL, CalibrationError
from apa_mmdet.models.calibration.base import Channels
from apa_mmdet.models.losses import APALink, GumbelLink, SigmoidLink

LVIS = ROOT / 'configs/_base_/datasets/lvis_v1_class_frequency.json'
STATS = dict(image_count=[90, 9, 1], n_images=100, fractal_dimension=[1.8, 1.4, 1.0])


@pytest.fixture(scope='module')
def recorded():
    return load('fracal.npz')


@pytest.fixture(scope='module')
def lvis():
    return FRACAL(LVIS)


@pytest.mark.parametrize('name, link', [('sigmoid', SigmoidLink()), ('gumbel', GumbelLink())])
def test_scores_of_a_link_match_the_recorded_ones(recorded, lvis, name, link):
    scores = link(lvis(torch.from_numpy(recorded['logits']), link, Channels()))
    np.testing.assert_allclose(scores.numpy(), recorded[name], rtol=1e-5, atol=1e-9)


def test_scores_of_a_softmax_match_the_recorded_ones(recorded, lvis):
    scores = lvis(torch.from_numpy(recorded['logits_softmax']), None, Channels(extra=1)).softmax(1)
    np.testing.assert_allclose(scores.numpy(), recorded['softmax'], rtol=1e-5, atol=1e-9)


def by_definition(a, x):
    """a(x)·a(x + δ) in float64, step by step as in the paper."""
    f, phi, c = np.array([0.9, 0.09, 0.01]), np.array([1.8, 1.4, 1.0]), 3
    w, share = -np.log10(f) - np.log10(c), phi**2 / (phi**2).sum()
    return a(x) * a(x + w - np.log10(share) - np.log10(c))


@pytest.mark.parametrize('lambda_, kappa', [(1.0, 1.0), (0.3, 1.2), (2.5, 0.6), (1e-6, 1.0)])
def test_scores_of_a_learned_apa_link_are_the_products(lambda_, kappa):
    link = APALink(kappa_init=kappa)
    link.lambda_.data.fill_(lambda_)  # learned; below the floor it is the floor
    x = torch.linspace(-15, 15, 61)[:, None].repeat(1, 3)
    want = by_definition(
        lambda z: (max(lambda_, 1e-4) * np.exp(-kappa * z) + 1) ** (-1 / max(lambda_, 1e-4)), x.double().numpy()
    )
    scores = link(FRACAL(STATS)(x, link, Channels())).detach()
    np.testing.assert_allclose(scores.numpy(), want, rtol=3e-5, atol=1e-12)
    assert scores.isfinite().all()


@pytest.mark.parametrize('dtype, tolerance', [(torch.float16, 2e-2), (torch.bfloat16, 2e-1), (torch.float64, 1e-5)])
@pytest.mark.parametrize('magnitude', [1.0, 30.0, 3e4])
def test_other_dtypes_and_far_logits(dtype, tolerance, magnitude):
    x = (torch.linspace(-1, 1, 21)[:, None].repeat(1, 3) * magnitude).to(dtype)
    calibrated = FRACAL(STATS).to(dtype)(x, SigmoidLink(), Channels())  # as a whole model in half precision
    assert calibrated.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert calibrated.isfinite().all()
    want = by_definition(lambda z: 1 / (1 + np.exp(-z.clip(-700))), x.double().numpy())
    np.testing.assert_allclose(calibrated.double().sigmoid().numpy(), want, rtol=tolerance, atol=1e-30)


def test_without_the_exponent_only_the_frequency_counts():
    frequency = dict(image_count=[90, 9, 1], n_images=100)
    even = dict(frequency, fractal_dimension=[1.5, 1.5, 1.5])
    without, equal = FRACAL(frequency, exponent=0), FRACAL(even)
    torch.testing.assert_close(without.shift, equal.shift)
    assert without.prior.diff().tolist() == pytest.approx([1.0, np.log10(9)])


def test_a_class_without_an_image_counts_as_one_of_a_single_image():
    shifts = FRACAL(dict(STATS, image_count=[90, 1, 0])).shift
    assert shifts.isfinite().all() and shifts[1] < shifts[2]  # by its fractal dimension alone


@pytest.mark.parametrize('exponent', [-1, -0.001, float('nan'), float('inf'), '2', None, True])
def test_an_invalid_exponent_is_refused(exponent):
    with pytest.raises(CalibrationError) as error:
        FRACAL(STATS, exponent=exponent)
    assert error.value.code == 'invalid-exponent' and '\n' not in str(error.value)


def test_statistics_without_fractal_dimensions_are_refused():
    with pytest.raises(CalibrationError) as error:
        FRACAL(dict(image_count=[1, 2]))
    assert error.value.code == 'no-fractal-dimension' and 'tools/class_statistics.py' in str(error.value)

"""IIF: the variants by their formulas, and the probabilities that come out."""

import math
from statistics import NormalDist

import pytest
import torch

from apa_mmdet.models.calibration import IIF, CalibrationError
from apa_mmdet.models.calibration.base import Channels
from apa_mmdet.models.losses import SigmoidLink

COUNTS = [500, 60, 7, 1]
N = sum(COUNTS)
FORMULAS = dict(
    rel=lambda n: math.log((N - n) / n),
    raw=lambda n: math.log(N / n),
    smooth=lambda n: math.log((N + 1) / (n + 1)) + 1,
    normit=lambda n: -NormalDist().inv_cdf(n / N),
    gombit=lambda n: -math.log(-math.log(1 - n / N)),
    base2=lambda n: math.log2(N / n),
    base10=lambda n: math.log10(N / n),
)


@pytest.mark.parametrize('variant', FORMULAS)
def test_a_variant_adds_its_formula_to_the_logits_of_classes(variant):
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    calibrated = IIF(dict(image_count=COUNTS), variant)(logits, None, Channels(extra=1))
    want = torch.tensor([*map(FORMULAS[variant], COUNTS), 0.0])
    torch.testing.assert_close(calibrated - logits, want.expand(3, 5), rtol=1e-5, atol=1e-6)


def test_rel_makes_up_for_the_prior_of_each_class():
    """A classifier that has learned nothing but p_c = n_c/N by a sigmoid each finds all classes alike."""
    prior = torch.tensor(COUNTS) / N
    scores = IIF(dict(image_count=COUNTS))(prior.logit(), SigmoidLink(), Channels()).sigmoid()
    torch.testing.assert_close(scores, torch.full((4,), 0.5))


@pytest.mark.parametrize('variant', FORMULAS)
@pytest.mark.parametrize('counts', [[7], [0, 7], [7, 0, 3]])
def test_classes_of_all_images_or_none_stay_finite(variant, counts):
    assert IIF(dict(image_count=counts), variant).prior.isfinite().all()


@pytest.mark.parametrize('variant', ['Rel', '', None, ['rel']])
def test_an_unknown_variant_is_refused(variant):
    with pytest.raises(CalibrationError) as error:
        IIF(dict(image_count=COUNTS), variant)
    assert error.value.code == 'unknown-variant' and 'base10' in str(error.value)

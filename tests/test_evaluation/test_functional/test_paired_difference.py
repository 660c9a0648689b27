import numpy as np
import pytest

from apa_mmdet.evaluation.functional.paired_difference import paired_difference

SAMPLES = 200


def arms(rng, seeds, shift=0.0, of_seed=0.01, of_images=0.02, of_pair=0.003):
    """Values of two arms that share most of what images and seeds do to them, B ``shift`` better.

    What a sample of images does is drawn around what the images at hand have done already, as in a bootstrap.
    """
    common = rng.normal(0, of_images) + np.r_[0, rng.normal(0, of_images, SAMPLES)] + rng.normal(0, of_seed, (seeds, 1))
    pair = [rng.normal(0, of_pair) + np.r_[0, rng.normal(0, of_pair, SAMPLES)] for _ in range(2)]
    own = rng.normal(0, of_pair, (2, seeds, 1))
    return 0.3 + common + pair[0] + own[0], 0.3 + shift + common + pair[1] + own[1]


@pytest.mark.parametrize('seeds', [3, 5])
def test_intervals_hold_the_true_difference_as_often_as_they_say(seeds):
    rng = np.random.default_rng(0)
    found = [paired_difference(*arms(rng, seeds, 0.02), rng) for _ in range(250)]
    inside = np.mean([difference.low <= 0.02 <= difference.high for difference in found])
    assert 0.9 < inside < 0.97  # 95% of many seeds; the deviation of few is itself uncertain
    widths = [(difference.high - difference.low) / 2 for difference in found]
    assert np.mean(widths) == pytest.approx(np.mean([difference.smallest() for difference in found]), rel=0.1)


def test_half_of_the_smallest_differences_are_found():
    rng = np.random.default_rng(1)
    size = np.mean([paired_difference(*arms(rng, 8), rng).smallest() for _ in range(25)])
    powers = [
        np.mean([paired_difference(*arms(rng, 8, factor * size), rng).low > 0 for _ in range(150)])
        for factor in (1, 1.43)
    ]
    assert 0.4 < powers[0] < 0.65 and 0.7 < powers[1] < 0.9


def test_pairing_takes_out_what_arms_share():
    rng = np.random.default_rng(2)
    found = paired_difference(*arms(rng, 5), rng)
    assert found.smallest(paired=False) > 3 * found.smallest()
    assert found.smallest() == pytest.approx(1.96 * np.sqrt(found.seed_deviation**2 / 5 + found.image_variance))


def test_of_one_seed_only_images_count():
    rng = np.random.default_rng(3)
    found = paired_difference(*arms(rng, 1), rng)
    assert np.isnan(found.seed_deviation) and found.smallest() == pytest.approx(1.96 * np.sqrt(found.image_variance))
    assert found.low < found.value < found.high


def test_equal_arms_differ_by_nothing():
    rng = np.random.default_rng(4)
    a, _ = arms(rng, 3)
    found = paired_difference(a, a, rng)
    assert (found.value, found.low, found.high, found.smallest()) == (0, 0, 0, 0)


def test_what_resampling_adds_to_a_difference_is_not_in_the_interval():
    rng = np.random.default_rng(5)
    a, b = arms(rng, 4, 0.02)
    b[:, 1:] += 0.1  # higher in every sample than in the images as they are
    found = paired_difference(a, b, rng)
    assert found.low < found.value < found.high < 0.05


def test_samples_without_objects_are_left_out():
    rng = np.random.default_rng(6)
    a, b = arms(rng, 2, 0.02)
    a[:, 3:9] = b[:, 3:9] = np.nan
    found = paired_difference(a, b, rng)
    assert found.low < found.value < found.high and found.smallest() > 0
    nothing = paired_difference(a * np.nan, b * np.nan, rng)
    assert np.isnan([nothing.value, nothing.low, nothing.high, nothing.smallest()]).all()

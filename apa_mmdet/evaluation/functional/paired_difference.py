"""The difference of two arms, trained with the same seeds and tested on the same images, with its interval."""

from dataclasses import dataclass

import numpy as np

NORMAL_95 = 1.96  # standard deviations on each side that hold 95% of a normal distribution


@dataclass(frozen=True)
class Difference:
    """Of the means of two arms over n seeds, B − A; NaN where there is nothing to average.

    Attributes:
        value: the difference.
        low, high: 95% interval.
        seeds: n.
        seed_deviation: :math:`s_d`, standard deviation of the differences over the seeds; NaN of one seed.
        image_variance: :math:`v_{img}`, variance of the difference over samples of images.
        unpaired_seed_deviation, unpaired_image_variance: what takes their places if the arms had nothing in common,
            :math:`\\sqrt{s_a^2 + s_b^2}` and :math:`v_a + v_b`.
    """

    value: float
    low: float
    high: float
    seeds: int
    seed_deviation: float
    image_variance: float
    unpaired_seed_deviation: float
    unpaired_image_variance: float

    def smallest(self, paired: bool = True) -> float:
        """The smallest difference that these seeds and images can distinguish from 0, half the width of the interval:

        .. math:: 1.96 \\sqrt{s_d^2 / n + v_{img}}

        A true difference of that size is found in half of all repetitions, one 1.43 times as large in four of five. Of
        one seed :math:`s_d` is not known, and the images alone count: the true value is larger.

        Args:
            paired: False: with separate images and seeds for each arm.
        """
        deviation = self.seed_deviation if paired else self.unpaired_seed_deviation
        variance = self.image_variance if paired else self.unpaired_image_variance
        of_seeds = 0.0 if np.isnan(deviation) else deviation**2 / self.seeds
        return NORMAL_95 * float(np.sqrt(of_seeds + variance))


def paired_difference(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> Difference:
    """The difference of two arms with the 95% interval of a bootstrap over images and seeds.

    Rows are seeds, the same in both arms. A repetition of the bootstrap takes one sample of images, the same for all
    rows, and draws n of the n rows with replacement, the same for both arms. Drawn rows vary by (n − 1) / n of what
    seeds do, a third less with three of them; their deviations from the mean of all rows are therefore taken
    :math:`\\sqrt{n / (n - 1)}` times (Hesterberg, arXiv:1411.5279). Of one seed only images are drawn.

    The ends of the interval are the 2.5th and 97.5th percentile of the repetitions, moved as a whole so that their mean
    is the difference of the images as they are: AP is higher in samples than in all images (0.236 instead of 0.215 for
    1,000 drawn images of 320 classes), and what that adds to a difference is not a finding.

    Args:
        a, b: a statistic of each arm, (n, 1 + S): of the images as they are, then of each sample of them.
        rng: by which rows are drawn.

    Example:
        >>> found = paired_difference(np.zeros((2, 3)), np.array([[1, 1, 1], [3, 3, 3.0]]), np.random.default_rng(0))
        >>> found.value, round(found.seed_deviation, 3), round(found.smallest(), 3)
        (2.0, 1.414, 1.96)
    """
    difference = b - a
    seeds, samples = len(difference), difference.shape[1] - 1
    mean = difference[:, 1:].mean(0)
    repetitions = mean
    if seeds > 1:
        drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds), samples).T / seeds - 1 / seeds
        repetitions = mean + np.sqrt(seeds / (seeds - 1)) * (drawn * difference[:, 1:]).sum(0)
    value = float(difference[:, 0].mean())
    known = repetitions[~np.isnan(repetitions)]  # a sample may lack the objects of all rare classes
    low, high = (np.percentile(known, [2.5, 97.5]) - known.mean() + value).tolist() if known.size else (np.nan, np.nan)
    return Difference(
        value,
        low,
        high,
        seeds,
        _deviation(difference[:, 0]),
        _deviation(mean) ** 2,
        float(np.hypot(_deviation(a[:, 0]), _deviation(b[:, 0]))),
        _deviation(a[:, 1:].mean(0)) ** 2 + _deviation(b[:, 1:].mean(0)) ** 2,
    )


def _deviation(values: np.ndarray) -> float:
    """Of a sample; NaN of fewer than two numbers."""
    values = values[~np.isnan(values)]
    return float(values.std(ddof=1)) if len(values) > 1 else float('nan')

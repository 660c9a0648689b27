"""Compares results of detectors on the same images: which difference is there, and which could be seen?"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from terminaltables import AsciiTable
from tqdm import tqdm

from apa_mmdet.evaluation.functional.metric_names import KINDS
from apa_mmdet.evaluation.functional.paired_difference import Difference, paired_difference
from apa_mmdet.evaluation.functional.prediction_store import PredictionError
from apa_mmdet.evaluation.functional.resampled_ap import draw_images
from apa_mmdet.evaluation.metrics.streamed_metric import Resampled, StreamedMetric
from apa_mmdet.utils.errors import CodedError

from .offline_eval import build_metric, check_results, open_results


class BadComparison(CodedError):
    """Results that cannot be compared: ``seeds``, ``images`` or ``metrics`` is what they differ in, or ``arms``."""


@dataclass(frozen=True)
class Comparison:
    """Arms and their differences from one of them, the baseline.

    Attributes:
        baseline: the name of the arm that the others are compared with.
        values: by arm and metric (``'segm_AP'``, ``'bbox_APr'``, …), the values of its seeds, of all images.
        differences: by other arm and metric, arm − baseline.
        images: number of images of which a sample consists.
        samples: number of samples.
        seeds: number of seeds.
    """

    baseline: str
    values: dict[str, dict[str, list[float]]]
    differences: dict[str, dict[str, Difference]]
    images: int
    samples: int
    seeds: int

    def table(self) -> str:
        """A table for each other arm, and what it says."""
        tables = [self._table(arm) for arm in self.differences]
        count = f'{self.seeds} seeds' if self.seeds > 1 else '1 seed'
        lines = [
            f'{self.samples} samples of {self.images} images, {count}. An interval without 0 shows a difference.',
            'smallest: the smallest difference that these seeds and images can distinguish from 0; unpaired: the same '
            'with separate images and seeds.',
        ]
        if self.seeds == 1:
            lines.append('One seed: the intervals say nothing about trainings with other seeds.')
        return '\n'.join([*tables, *lines])

    def _table(self, arm: str) -> str:
        rows = [['', self.baseline, arm, 'difference', '95% interval', 'smallest', 'unpaired']]
        for key, found in self.differences[arm].items():
            kind, _, name = key.partition('_')
            means = [np.mean(self.values[which][key]) for which in (self.baseline, arm)]
            cells = [f'{mean:.3f}' for mean in means] + [f'{found.value:+.3f}', f'{found.low:+.3f} … {found.high:+.3f}']
            cells += [f'{found.smallest(paired=paired):.3f}' for paired in (True, False)]
            rows.append([f'{KINDS[kind]} {name}', *(cells if not np.isnan(found.value) else ['-'] * len(cells))])
        return AsciiTable(rows).table


def compare_results(
    config: str,
    arms: Mapping[str, Sequence[str | Path]],
    baseline: str | None = None,
    samples: int = 1000,
    seed: int = 0,
    cfg_options: dict | None = None,
) -> Comparison:
    """Compares arms, which are detectors trained in different ways, by their results on the same images.

    The images are resampled, the same samples for all arms and seeds, and so are the seeds:
    :func:`~apa_mmdet.evaluation.functional.paired_difference.paired_difference`.

    Args:
        config: with a FastLVISMetric or FastCocoMetric in its ``test_evaluator``, or one of mmdet's; with
            ``frequency_groups`` the latter has APr, APc and APf too.
        arms: by name, the results of its seeds, as :func:`~.offline_eval.eval_results` takes them: files of
            ``tools/test.py --out``, for example. The i-th results of all arms are a pair: of the same seed.
        baseline: the arm that the others are compared with; default: the first.
        samples: number of samples of the images.
        seed: of the samples.
        cfg_options: settings of the config to override.

    Raises:
        FileNotFoundError: if there are no such results or annotations.
        BadComparison: if the results do not go together.
        BadConfig, PredictionError, CodedError: as of :func:`~.offline_eval.eval_results`.

    Example:
        >>> found = compare_results('own.py', dict(relu=['r0.pkl', 'r1.pkl'], aglu=['a0.pkl', 'a1.pkl']))
        ... # doctest: +SKIP
        >>> difference = found.differences['aglu']  # doctest: +SKIP
        >>> difference['segm_AP'].low  # doctest: +SKIP
        0.004
    """
    baseline = next(iter(arms), None) if baseline is None else baseline
    _check_arms(arms, baseline)
    images, resampled = resample_results(
        config, [path for paths in (arms[baseline], *arms.values()) for path in paths], samples, seed, cfg_options
    )
    stacked = {
        arm: {key: np.stack([resampled[Path(path)][key] for path in paths]) for key in resampled[Path(paths[0])]}
        for arm, paths in arms.items()
    }
    differences = {
        arm: {
            key: paired_difference(stacked[baseline][key], b, np.random.default_rng(seed)) for key, b in of_arm.items()
        }
        for arm, of_arm in stacked.items()
        if arm != baseline
    }
    values = {arm: {key: v[:, 0].tolist() for key, v in of_arm.items()} for arm, of_arm in stacked.items()}
    return Comparison(baseline, values, differences, images, samples, len(arms[baseline]))


def resample_results(
    config: str, paths: Iterable[str | Path], samples: int = 1000, seed: int = 0, cfg_options: dict | None = None
) -> tuple[int, dict[Path, dict[str, np.ndarray]]]:
    """Evaluates results on the same samples of their images.

    Args:
        config, samples, seed, cfg_options: as of :func:`compare_results`.
        paths: of the results; one that comes twice is evaluated once.

    Returns:
        The number of images, and for each path and metric ``(1 + samples,)`` values: of all images, of each sample.

    Raises:
        FileNotFoundError: if there are no such results or annotations.
        BadComparison: if the results are not of the same images and metrics.
        BadConfig, PredictionError, CodedError: as of :func:`~.offline_eval.eval_results`.
    """
    paths = list(dict.fromkeys(map(Path, paths)))
    metric = build_metric(config, paths[0], cfg_options)
    if metric.format_only or not set(metric.metrics) & {*KINDS}:
        raise BadComparison('metrics', f"test_evaluator of {config} evaluates neither 'bbox' nor 'segm'")
    for path in paths:
        check_results(path, metric)
    ground_truth = metric.load_ground_truth()
    weights = draw_images(len(ground_truth.imgs), samples, np.random.default_rng(seed))
    found: dict[Path, Resampled] = {}
    for path in tqdm(paths, unit='result', disable=None, delay=1):  # disable=None: no bar in a log
        found[path] = _resample(path, metric, weights, ground_truth)
        _check_same(paths[0], found[paths[0]], path, found[path])
    return len(ground_truth.imgs), {path: resampled.values for path, resampled in found.items()}


def _check_arms(arms: Mapping[str, Sequence[str | Path]], baseline: str | None) -> None:
    if baseline not in arms or len(arms) < 2:
        raise BadComparison('arms', f'{baseline!r} is to be compared, but the arms are {", ".join(map(repr, arms))}')
    counts = {arm: len(paths) for arm, paths in arms.items()}
    if len(set(counts.values())) > 1 or not counts[baseline]:
        shown = ', '.join(f'{arm} has {count}' for arm, count in counts.items())
        raise BadComparison('seeds', f'each arm needs the results of the same seeds, in the same order; {shown}')


def _resample(path: Path, metric: StreamedMetric, weights: np.ndarray, ground_truth: object) -> Resampled:
    try:
        with open_results(path, metric, ground_truth) as files:
            return metric.resample_files(files, weights, ground_truth)
    except PredictionError as error:
        raise error if error.path else PredictionError.of(error.code, path, f': {error}') from None


def _check_same(first_path: Path, first: Resampled, path: Path, found: Resampled) -> None:
    """Result files in JSON name only images with detections; others name all that were tested."""
    if [*first.values] != [*found.values]:
        raise BadComparison('metrics', f'{first_path} has {", ".join(first.values)}, {path} {", ".join(found.values)}')
    if '.json' in (first_path.suffix, path.suffix):
        return
    other = sorted(first.tested ^ found.tested)
    if other:
        raise BadComparison(
            'images',
            f'{first_path} has {len(first.tested)} images, {path} {len(found.tested)}; {len(other)} of them, e.g. '
            f'{other[0]}, are only in one: compare tests of the same images',
        )

"""Evaluates several data sets, each with metrics of its own."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from mmdet.registry import EVALUATOR
from mmengine import dist
from mmengine.evaluator import BaseMetric, Evaluator


@EVALUATOR.register_module()
class ConcatDatasetEvaluator(Evaluator):
    """The metrics of each data set in a ``ConcatDataset``, named ``<dataset prefix>/<metric prefix>/<metric>``.

    mmdet's ``MultiDatasetsEvaluator`` pairs a data set with one metric and takes its share out of ``metric.results``,
    where FastLVISMetric keeps nothing. Here each metric gets the images of its own data set, and only them: data sets
    may number their images alike, and every metric of MMEngine works. Samples belong to a data set by their order, so
    that the sampler is one that does not shuffle; samples that fill up the last batch of several processes are dropped.

    A metric that is added to ``metrics`` later, as by ``tools/test.py --out``, gets all images.

    Args:
        metrics: for each data set, in their order, a metric or a list of metrics.
        dataset_prefixes: a name for each data set.

    Raises:
        ValueError: if there are not as many metrics and prefixes as data sets, or images are missing in the end.

    Example::

        val_dataloader = dict(dataset=dict(type='ConcatDataset', datasets=[city, country]))
        val_evaluator = dict(
            type='ConcatDatasetEvaluator',
            metrics=[[dict(type='CocoMetric', ann_file='city.json'), dict(type='VOCMetric')],
                     dict(type='FastLVISMetric', ann_file='country.json')],
            dataset_prefixes=['city', 'country'],
        )
    """

    def __init__(self, metrics: Sequence, dataset_prefixes: Sequence[str]) -> None:
        groups = [group if isinstance(group, (list, tuple)) else [group] for group in metrics]
        if len(groups) != len(dataset_prefixes) or len(set(dataset_prefixes)) < len(dataset_prefixes):
            raise ValueError(
                f'ConcatDatasetEvaluator has metrics of {len(groups)} data sets and the prefixes '
                f'{list(dataset_prefixes)}; give each data set one of its own'
            )
        super().__init__([metric for group in groups for metric in group])
        numbers = [number for number, group in enumerate(groups) for _ in group]
        self._dataset_of = dict(zip(map(id, self.metrics), numbers))
        self.prefixes, self._seen = list(dataset_prefixes), 0

    @property
    def dataset_meta(self) -> dict | list[dict] | None:
        """Of the ``ConcatDataset``: a dict, or a list of them where data sets differ; each metric gets its own."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict | list[dict]) -> None:
        self._dataset_meta = dataset_meta
        metas = dataset_meta if isinstance(dataset_meta, (list, tuple)) else [dataset_meta] * len(self.prefixes)
        ends = metas[0].get('cumulative_sizes', ())
        if len(ends) != len(self.prefixes):
            raise ValueError(
                f'ConcatDatasetEvaluator has metrics of {len(self.prefixes)} data sets, but the dataloader has '
                f'{len(ends) or "no ConcatDataset"}; give one entry of metrics and a prefix for each'
            )
        self._ends = list(ends)
        for metric in self.metrics:
            metric.dataset_meta = metas[self._dataset_of.get(id(metric), 0)]

    def process(self, data_samples: Sequence, data_batch: Any = None) -> None:
        """Give each sample to the metrics of its data set."""
        rank, world_size = dist.get_dist_info()
        shares: dict[int, list] = {}
        for sample in data_samples:
            # DefaultSampler deals the images out in turn, and begins again with the first to fill the last round
            index = self._seen * world_size + rank
            self._seen += 1
            if index < self._ends[-1]:
                shares.setdefault(bisect_right(self._ends, index), []).append(
                    sample.to_dict() if hasattr(sample, 'to_dict') else sample
                )
        for metric in self.metrics:
            number = self._dataset_of.get(id(metric))
            samples = shares.get(number, []) if number is not None else [s for share in shares.values() for s in share]
            if samples:
                metric.process(data_batch, samples)

    def evaluate(self, size: int) -> dict[str, float]:
        """The metrics of all data sets, on every rank; ``size``: of all of them together."""
        rank, world_size = dist.get_dist_info()
        seen, self._seen = self._seen, 0
        if size != self._ends[-1] or seen not in (-(-(size - rank) // world_size), -(-size // world_size)):
            raise ValueError(
                f'ConcatDatasetEvaluator got {seen} images in process {rank} of {world_size} for {self._ends[-1]} of '
                'the data sets; it needs DefaultSampler with shuffle=False'
            )
        metrics: dict[str, float] = {}
        for metric in self.metrics:
            for name, value in self._evaluate_one(metric, size).items():
                if name in metrics:
                    raise ValueError(f'two metrics give {name}; give each a prefix of its own')
                metrics[name] = value
        return metrics

    def _evaluate_one(self, metric: BaseMetric, size: int) -> dict[str, float]:
        number = self._dataset_of.get(id(metric))
        if number is None:
            return metric.evaluate(size)
        found = metric.evaluate(self._ends[number] - (self._ends[number - 1] if number else 0))
        return {f'{self.prefixes[number]}/{name}': value for name, value in found.items()}

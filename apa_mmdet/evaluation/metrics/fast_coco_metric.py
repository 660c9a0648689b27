import csv
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine import fileio
from mmengine.logging import MMLogger
from terminaltables import AsciiTable

from apa_mmdet.datasets.annotations.class_measurement import ClassCounts, count_classes
from apa_mmdet.datasets.annotations.reading import read_annotations
from apa_mmdet.datasets.frequency_groups import GROUPS, check_options, group_classes
from apa_mmdet.evaluation.functional.category_matches import CategoryMatches
from apa_mmdet.evaluation.functional.coco_eval import evaluate_coco, match_coco
from apa_mmdet.evaluation.functional.coco_ground_truth import CocoGroundTruth
from apa_mmdet.evaluation.functional.coco_summary import (
    NAMES,
    PRECISIONS,
    available,
    by_category,
    categories_at_map,
    limit_of_map,
    summarize,
)
from apa_mmdet.evaluation.functional.detection_rows import DetectionRows
from apa_mmdet.evaluation.functional.prediction_store import PredictionFiles
from apa_mmdet.evaluation.functional.proposal_recall import ProposalRecall
from apa_mmdet.utils.fileio import atomic_open

from .streamed_metric import StreamedMetric

GROUP_PRECISIONS = tuple(f'AP{group}' for group in GROUPS)


@METRICS.register_module()
class FastCocoMetric(StreamedMetric, CocoMetric):
    """mmdet's ``CocoMetric``, with the same arguments and results, for many classes and images in little memory.

    Predictions are written to files during the test and evaluated from there, category by category; only rank 0 reads
    the annotations. For the files, which ``tools/eval_results.py`` evaluates again, see ``FastLVISMetric``.

    The statistics are those of the evaluator that ``use_mp_eval`` names, and where there is nothing to average -1. As
    in mmdet, 'AR@100', 'AR@300' and 'AR@1000' are recalls at the first, second and third of ``proposal_nums``,
    whatever these are. Unlike there, a test without any detection has AP 0 instead of no result; annotations may have
    the id 0; ``classwise`` names classes correctly if the file does not list them by their ids; masks are encoded only
    for 'segm' or ``format_only``; and ``use_mp_eval`` starts no processes and takes any number of ``proposal_nums``.

    How many detections of an image and class count differs. With ``use_mp_eval`` all precisions count the last of
    ``proposal_nums``. Without it mAP counts 100, as in COCO, and so does what it is the mean of, AP by frequency and in
    ``classes_bbox.csv``; mAP_50, mAP_75 and others count the third of ``proposal_nums``, ``classwise`` the last. Images
    with more objects of a class than mAP counts are logged.

    Args:
        ann_file: annotations in COCO's format; required.
        args, kwargs: mmdet's; ``collect_device`` has no effect.
        sort_categories: labels follow the ids of the categories.
        frequency_groups: AP of rare, common and frequent classes, ``bbox_APr``, ``bbox_APc``, ``bbox_APf``:
            ``dict(ann_file=…, bounds=(10, 100))`` with the annotations of the training; a class is rare that appears
            in at most 10 of its images, and frequent in more than 100, as in LVIS. ``quantiles=(1/3, 2/3)`` instead of
            ``bounds`` makes groups of about the same number of classes. A group without classes is skipped. Classes
            with their images, instances and AP are then also written to ``classes_bbox.csv`` beside the log.

    Raises:
        ValueError: for arguments that do not go together.
        FileNotFoundError: if ``ann_file`` does not exist.
        PredictionError, EvaluationError: as :class:`StreamedMetric`.
    """

    def __init__(
        self,
        ann_file: str | None = None,
        *args,
        sort_categories: bool = False,
        frequency_groups: dict | None = None,
        **kwargs,
    ) -> None:
        if ann_file is None:
            raise ValueError('FastCocoMetric needs ann_file; CocoMetric can do without, by annotations in the samples')
        self._check_format_only(kwargs, 'FastCocoMetric')
        super().__init__(None, *args, **kwargs)
        self.sort_categories, self.frequency_groups = sort_categories, frequency_groups
        self._counts: ClassCounts | None = None
        if frequency_groups is not None:
            check_options(frequency_groups)
        self._check_items()
        self.writes_masks = self.format_only or 'segm' in self.metrics
        self._prepare(ann_file)

    @property
    def _limit(self) -> int:
        return limit_of_map(self.proposal_nums, self.use_mp_eval)

    def _check_items(self) -> None:
        if set(self.metrics) == {'proposal_fast'}:
            return
        if not self.use_mp_eval and len(self.proposal_nums) < 3:
            raise ValueError(
                f'proposal_nums is {self.proposal_nums}; without use_mp_eval it must have 3 numbers, of which the '
                'third is the limit of mAP_50 and others'
            )
        if self.frequency_groups and self._limit not in self.proposal_nums:
            raise ValueError(
                f'proposal_nums is {self.proposal_nums}; mAP, which frequency_groups divides, counts '
                '100 detections: name 100 among them, or set use_mp_eval=True'
            )
        known = [*available(self.proposal_nums), *(GROUP_PRECISIONS if self.frequency_groups else ())]
        for item in self.metric_items or ():
            if item not in known:
                raise ValueError(f'metric_items has {item!r}; with these proposal_nums there are {", ".join(known)}')

    # Evaluation, on rank 0

    def load_ground_truth(self) -> CocoGroundTruth:
        """As in :class:`StreamedMetric`."""
        options = dict(masks='segm' in self.metrics, evaluated=not self.format_only)
        with fileio.get_local_path(self.ann_file, backend_args=self.backend_args) as path:
            classes = (self.dataset_meta or {}).get('classes')
            truth = CocoGroundTruth(path, classes, sort_categories=self.sort_categories, **options)
        objects = truth.objects[~truth.objects['crowd']]
        groups, counts = np.unique(objects['image'].astype(np.int64) << 32 | objects['label'], return_counts=True)
        most = counts.max(initial=0)
        limits = '' if max(self.proposal_nums) >= most else f', proposal_nums=(100, 300, {2 * most})'
        self._report_crowded(groups >> 32, counts, self._limit, ' of a class', f'use_mp_eval=True{limits}')
        return truth

    def _collectors(self, results: PredictionFiles) -> tuple[DetectionRows, ProposalRecall]:
        truth = self._ground_truth
        detections = DetectionRows(truth, results, 'segm' in self.metrics, np.arange(len(truth.categories)))
        return detections, ProposalRecall(truth.single_boxes, truth.single_objects, self.proposal_nums, self.iou_thrs)

    def _evaluate(self, metric: str, detections: DetectionRows) -> dict[str, float]:
        truth, proposals = self._ground_truth, metric == 'proposal'
        options = np.atleast_1d(self.iou_thrs), self.proposal_nums, not proposals
        averages = evaluate_coco(truth, detections, 'segm' if metric == 'segm' else 'bbox', *options)
        statistics = summarize(averages, self.use_mp_eval)
        metrics = {}
        if self.classwise and not proposals:
            metrics = self._by_class(by_category(averages))
        if self.frequency_groups and not proposals:
            statistics.update(self._by_frequency(metric, categories_at_map(averages, self.use_mp_eval)))
        items = self.metric_items
        if items is None:
            items = [*PRECISIONS, *GROUP_PRECISIONS] if not proposals else [n for n in NAMES if n not in PRECISIONS]
        values = {key: _rounded(statistics[key], proposals) for key in items if key in statistics}
        metrics.update({key if proposals else f'{metric}_{key}': value for key, value in values.items()})
        shown = [f'{key} {value:.3f}' for key, value in statistics.items()]
        MMLogger.get_current_instance().info(f'{metric}: {", ".join(shown)}')
        return metrics

    def _by_class(self, table: np.ndarray) -> dict[str, float]:
        names = [category['name'] for category in self._ground_truth.categories]
        cells = [[name, *(f'{round(x, 3)}' for x in row)] for name, row in zip(names, table)]
        header = ['category', *PRECISIONS]
        MMLogger.get_current_instance().info('\n' + AsciiTable([header, *cells]).table)
        return {f'{name}_precision': round(ap, 3) for name, ap in zip(names, table[:, 0])}

    def _by_frequency(self, metric: str, precisions: np.ndarray) -> dict[str, float]:
        """AP of each group of classes; ``precisions``: of each class, NaN without objects."""
        names, first = [category['name'] for category in self._ground_truth.categories], self._counts is None
        groups = self._class_groups()
        self._write_classes(metric, zip(names, groups.tolist(), *(c.tolist() for c in self._counts), precisions))
        metrics, logger = {}, MMLogger.get_current_instance()
        for letter, title in GROUPS.items():
            found = precisions[groups == letter]
            found = found[~np.isnan(found)]
            if found.size:
                metrics[f'AP{letter}'] = found.mean()
            elif first:
                logger.warning(f'AP{letter} is skipped: no {title} class has objects in {self.ann_file}')
        return metrics

    def _class_groups(self) -> np.ndarray:
        """The letter of each class."""
        names, options = [category['name'] for category in self._ground_truth.categories], dict(self.frequency_groups)
        ann_file = options.pop('ann_file')
        if self._counts is None:  # once a run: the annotations of a training may take a minute to read
            with fileio.get_local_path(ann_file, backend_args=self.backend_args) as path:
                self._counts = count_classes(
                    read_annotations(path), path, names, 'frequency_groups.ann_file', type(self).__name__
                )
        return group_classes(self._counts.images, **options)

    def _matches(self, metric: str, detections: DetectionRows) -> Iterator[tuple[int, CategoryMatches]]:
        return match_coco(self._ground_truth, detections, metric, np.atleast_1d(self.iou_thrs), self._limit)

    def _groups(self) -> dict[str, np.ndarray]:
        found = dict(AP=np.ones(len(self._ground_truth.categories), bool))
        if self.frequency_groups:
            letters = self._class_groups()
            found.update({f'AP{letter}': letters == letter for letter in GROUPS})
        return found

    def _write_classes(self, metric: str, rows: zip) -> None:
        logger = MMLogger.get_current_instance()
        if not logger.log_file:
            return
        path = Path(logger.log_file).with_name(f'classes_{metric}.csv')
        with atomic_open(path, 'w', newline='', encoding='utf-8') as file:
            table = csv.writer(file)
            table.writerow(['class', 'group', 'images', 'instances', 'AP'])
            table.writerows([*row, '' if math.isnan(ap) else f'{ap:.6f}'] for *row, ap in rows)
        logger.info(f'AP by class is in {path}')


def _rounded(value: float, formatted: bool) -> float:
    """As CocoMetric does, for proposals by formatting."""
    return float(f'{value:.3f}') if formatted else float(np.float64(value).round(3))

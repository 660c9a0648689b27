import importlib
import itertools
import math
from collections.abc import Iterator

import numpy as np
from lvis import LVIS
from lvis.eval import Params
from mmdet.evaluation import LVISMetric
from mmdet.registry import METRICS
from mmengine import fileio
from mmengine.logging import MMLogger
from terminaltables import AsciiTable

from apa_mmdet.datasets.annotations.selection import BY_NAME
from apa_mmdet.datasets.frequency_groups import GROUPS
from apa_mmdet.evaluation.functional.category_matches import CategoryMatches
from apa_mmdet.evaluation.functional.lvis_detections import MAX_PER_IMAGE, LVISDetections
from apa_mmdet.evaluation.functional.lvis_eval import FastLVISEval, GroundTruth
from apa_mmdet.evaluation.functional.lvis_matches import match_lvis
from apa_mmdet.evaluation.functional.prediction_store import PredictionFiles
from apa_mmdet.evaluation.functional.proposal_recall import ProposalRecall
from apa_mmdet.utils.errors import CodedError

from .streamed_metric import StreamedMetric

AVERAGE_PRECISIONS = 'AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'APr', 'APc', 'APf'
AVERAGE_RECALLS = 'AR@300', 'ARs@300', 'ARm@300', 'ARl@300'


@METRICS.register_module()
class FastLVISMetric(StreamedMetric, LVISMetric):
    """mmdet's ``LVISMetric``, with the same arguments and results, for all of LVIS in little memory.

    Predictions are written to files during the test, in the folder of the run's log, and evaluated from there by
    faster-coco-eval; only rank 0 reads the annotations, for the evaluation. The files are removed after a successful
    evaluation unless there is an ``outfile_prefix``: then they stay in ``<outfile_prefix>.predictions``, beside the
    JSON files of that prefix. They also stay if the evaluation fails: ``tools/eval_results.py`` evaluates them again.
    All ranks create their metrics in the same order: they agree on a name there.

    A label is a position among the file's categories, as in mmdet; with ``SelectiveLVISV1Dataset`` or
    ``SelectiveLVISV05Dataset`` one among their classes, and only these are evaluated.

    As in mmdet, 'proposal' is recall by category, and ``iou_thrs`` is only for 'proposal_fast'. Unlike there, a test
    without any detection has AP 0 instead of no result, and what has no annotation to average, as a frequency group
    without classes, is NaN instead of -1.

    Args:
        ann_file: annotations in LVIS's format, v1 or v0.5; required. With ``format_only``, images and categories are
            enough, as in LVIS's files of test images.
        args, kwargs: mmdet's; ``collect_device`` has no effect.
        topk: fixed AP (Dave et al., *Evaluating Large-Vocabulary Object Detectors: The Devil is in the Details*,
            arXiv:2102.01066): the best ``topk`` detections of each category in all images count (10,000 there), as in
            mmdet's ``LVISFixedAPMetric``, instead of the best 300 of each image.

    Raises:
        ValueError: for arguments that do not go together.
        FileNotFoundError: if ``ann_file`` does not exist.
        PredictionError, EvaluationError: as :class:`StreamedMetric`.
    """

    knows_classes_by_name = True  # of a data set that finds them so; the validation of data sets asks

    def __init__(self, ann_file: str | None = None, *args, topk: int | None = None, **kwargs) -> None:
        if ann_file is None:
            raise ValueError('FastLVISMetric needs ann_file: it lists the categories that an image is annotated for')
        self._check_format_only(kwargs, 'FastLVISMetric')
        if topk is not None and topk < 1:
            raise ValueError(f'topk is {topk}; it must be 1 or more detections of a category')
        super().__init__(None, *args, **kwargs)
        if topk is not None and 'proposal' in self.metrics:
            raise ValueError("metric 'proposal' counts 300 detections of an image; it cannot be combined with topk")
        self.topk = topk
        importlib.import_module('faster_coco_eval')  # if it is missing, that ends a run here and not after its test
        self._prepare(ann_file)

    # Evaluation, on rank 0

    def load_ground_truth(self) -> LVIS:
        """As in :class:`StreamedMetric`."""
        with fileio.get_local_path(self.ann_file, backend_args=self.backend_args) as path:
            meta = self.dataset_meta or {}
            classes = meta.get('classes') if meta.get(BY_NAME) else None
            truth = GroundTruth(path, 'segm' in self.metrics, not self.format_only, classes)
        if not self.topk:
            counts = np.array([len(annotations) for annotations in truth.img_ann_map.values()], int)
            self._report_crowded(np.arange(len(counts)), counts, MAX_PER_IMAGE, '', 'topk=10000, for fixed AP,')
        return truth

    def _collectors(self, results: PredictionFiles) -> tuple[LVISDetections, ProposalRecall]:
        truth = self._ground_truth
        detections = LVISDetections(truth, results, 'segm' in self.metrics, self.topk)
        recall = ProposalRecall(
            lambda i: [a['bbox'] for a in truth.img_ann_map.get(i, ())],
            len(truth.anns),
            self.proposal_nums,
            self.iou_thrs,
        )
        return detections, recall

    def _evaluate(self, metric: str, detections: LVISDetections) -> dict[str, float]:
        evaluation = FastLVISEval(detections, 'segm' if metric == 'segm' else 'bbox')
        evaluation.run()
        results = evaluation.get_results()
        metrics = self._by_class(evaluation) if self.classwise and metric != 'proposal' else {}
        head, items = ('', AVERAGE_RECALLS) if metric == 'proposal' else (f'{metric}_', AVERAGE_PRECISIONS)
        items = items if self.metric_items is None else self.metric_items
        results = {key: round(float(value), 3) if value >= 0 else math.nan for key, value in results.items()}
        metrics.update({f'{head}{key}': value for key, value in results.items() if key in items})
        values = [f'{key} {value:.3f}' for key, value in results.items()]
        MMLogger.get_current_instance().info(f'{metric}: {", ".join(values)}')
        return metrics

    def _matches(self, metric: str, detections: LVISDetections) -> Iterator[tuple[int, CategoryMatches]]:
        if self.topk:
            raise CodedError(
                'fixed-ap',
                f'fixed AP, topk={self.topk} in test_evaluator, is not resampled: how many detections of a category '
                'count depends on the images; set topk=None',
            )
        return match_lvis(detections, metric, Params(metric).iou_thrs)

    def _groups(self) -> dict[str, np.ndarray]:
        categories = self._ground_truth.cats
        letters = np.array([categories[number]['frequency'] for number in sorted(categories)])
        return dict(AP=letters != '', **{f'AP{letter}': letters == letter for letter in GROUPS})

    def _by_class(self, evaluation: FastLVISEval) -> dict[str, float]:
        metrics, cells = {}, []
        for number, category in self._ground_truth.cats.items():
            precision = evaluation.eval['precision'][:, :, evaluation.params.cat_ids.index(number), 0]
            precision = precision[precision > -1]
            ap = round(precision.mean() if precision.size else np.nan, 3)
            metrics[f'{category["name"]}_precision'] = ap
            cells += [category['name'], f'{ap:.3f}']
        width = min(6, len(cells))
        rows = itertools.zip_longest(*[iter(cells)] * width)
        MMLogger.get_current_instance().info('\n' + AsciiTable([['category', 'AP'] * (width // 2), *rows]).table)
        return metrics

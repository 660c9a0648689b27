import itertools
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np
import torch
from lvis import LVIS
from mmdet.evaluation import LVISMetric
from mmdet.registry import METRICS
from mmdet.structures.mask import encode_mask_results
from mmengine import dist, fileio
from mmengine.logging import MMLogger
from terminaltables import AsciiTable
from torch import Tensor

from apa_mmdet.evaluation.functional.detections import Detections
from apa_mmdet.evaluation.functional.gather_predictions import gather_files
from apa_mmdet.evaluation.functional.json_results import json_results_writer
from apa_mmdet.evaluation.functional.lvis_eval import FastLVISEval, GroundTruth
from apa_mmdet.evaluation.functional.prediction_store import (
    Masks,
    Prediction,
    PredictionError,
    PredictionFiles,
    PredictionWriter,
)
from apa_mmdet.evaluation.functional.proposal_recall import ProposalRecall
from apa_mmdet.utils.errors import one_line

AVERAGE_PRECISIONS = 'AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'APr', 'APc', 'APf'
AVERAGE_RECALLS = 'AR@300', 'ARs@300', 'ARm@300', 'ARl@300'


class EvaluationError(RuntimeError):
    """An evaluation failed after a test; its predictions are kept.

    Attributes:
        folder: of the predictions.
        code: that of the cause, None if it has no code.
    """

    def __init__(self, message: str, folder: Path, code: str | None) -> None:
        super().__init__(message)
        self.folder, self.code = folder, code


@METRICS.register_module()
class FastLVISMetric(LVISMetric):
    """mmdet's ``LVISMetric``, with the same arguments and results, for all of LVIS in little memory.

    Predictions are written to files during the test, in the folder of the run's log, and evaluated from there by
    faster-coco-eval; only rank 0 reads the annotations, for the evaluation. The files are removed after a successful
    evaluation unless there is an ``outfile_prefix``: then they stay in ``<outfile_prefix>.predictions``, beside the
    JSON files of that prefix. They also stay if the evaluation fails: ``tools/eval_results.py`` evaluates them again.
    All ranks create their metrics in the same order: they agree on a name there.

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
        PredictionError: from ``process``, ``not-finite``, ``duplicate-image``, or ``file-in-use`` if another metric
            writes under the same ``outfile_prefix``.
        EvaluationError: if an evaluation fails.
    """

    renumbers_annotations = True  # ids of annotations do not matter; the validation of data sets asks

    def __init__(self, ann_file: str | None = None, *args, topk: int | None = None, **kwargs) -> None:
        if ann_file is None:
            raise ValueError('FastLVISMetric needs ann_file: it lists the categories that an image is annotated for')
        if kwargs.get('format_only') and kwargs.get('outfile_prefix') is None:
            raise ValueError('FastLVISMetric with format_only needs outfile_prefix, which names the files')
        if topk is not None and topk < 1:
            raise ValueError(f'topk is {topk}; it must be 1 or more detections of a category')
        super().__init__(None, *args, **kwargs)
        if topk is not None and 'proposal' in self.metrics:
            raise ValueError("metric 'proposal' counts 300 detections of an image; it cannot be combined with topk")
        backend = fileio.get_file_backend(ann_file, backend_args=self.backend_args)
        if hasattr(backend, 'exists') and not backend.exists(ann_file):  # an HTTP backend has no exists()
            raise FileNotFoundError(2, 'No such file or directory', ann_file)
        self.ann_file, self.topk = ann_file, topk
        token = torch.frombuffer(bytearray(os.urandom(8)), dtype=torch.uint8)
        dist.broadcast(token)
        self._token, self._tests = bytes(token.tolist()), itertools.count()
        self._open: PredictionWriter | None = None

    # While testing, on every rank

    @property
    def _writer(self) -> PredictionWriter:
        if self._open is None:
            logger, folder = MMLogger.get_current_instance(), Path(f'{self.outfile_prefix}.predictions')
            if self.outfile_prefix is None:  # a name of its own: runs that start in the same second share the folder
                parent = Path(logger.log_file).parent if logger.log_file else Path(tempfile.gettempdir())
                folder = parent / f'predictions_{self._token.hex()}'
            token = self._token + next(self._tests).to_bytes(8, 'little')  # the same on all ranks
            self._open = PredictionWriter(folder, *dist.get_dist_info(), token)
            logger.info(f'Predictions are written to {folder}')
        return self._open

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Write the predictions of a batch."""
        try:
            for sample in data_samples:
                self._writer.write(prediction_of_sample(sample))
        except Exception:  # ends this test; the next one starts with an empty file
            if self._open:
                with suppress(OSError):
                    self._open.close()
            self._open = None
            raise

    def evaluate(self, size: int) -> dict[str, float]:
        """The metrics of ``size`` images, on every rank; see the class for what happens to the files."""
        writer, self._open = self._writer, None
        metrics = cause = None
        try:
            paths = gather_files(writer)
            if dist.is_main_process():
                metrics = self.evaluate_files(PredictionFiles(paths, size))
        except Exception as error:  # reported on every rank, whatever it is
            cause = error
        failure = cause and (one_line(cause, limit=1000), getattr(cause, 'code', None))
        outcomes = dist.all_gather_object((metrics, failure))
        with suppress(OSError):  # has been flushed, or its error is in the failure
            writer.close()
        for _, failure in outcomes:
            if failure:
                raise EvaluationError(
                    f'the evaluation failed: {failure[0]}; the predictions are kept: evaluate them with '
                    f'python tools/eval_results.py CONFIG {writer.folder}',
                    writer.folder,
                    failure[1],
                ) from cause
        if self.outfile_prefix is None:
            dist.barrier()  # all have closed their files
            shutil.rmtree(writer.folder, ignore_errors=True)  # ranks may share it
            dist.barrier()  # before any rank starts the next test there
        return outcomes[0][0]

    # Evaluation, on rank 0

    def evaluate_files(self, predictions: PredictionFiles, ground_truth: LVIS | None = None) -> dict[str, float]:
        """The metrics of written predictions, with their prefix; no file is removed.

        Args:
            predictions: the files.
            ground_truth: what :meth:`load_ground_truth` returned, if it has been called.

        Raises:
            ValueError: if the annotations or the predictions are damaged, or do not belong together.
        """
        self._lvis_api = ground_truth or self.load_ground_truth()
        self.cat_ids, self.img_ids = self._lvis_api.get_cat_ids(), self._lvis_api.get_img_ids()
        try:
            metrics = self.compute_metrics(predictions)
        finally:
            self._lvis_api = None  # a GiB for LVIS
        return {f'{self.prefix}/{key}' if self.prefix else key: value for key, value in metrics.items()}

    def load_ground_truth(self) -> LVIS:
        """Read and validate the annotations; with ``format_only``, only the images and categories."""
        with fileio.get_local_path(self.ann_file, backend_args=self.backend_args) as path:
            return GroundTruth(path, masks='segm' in self.metrics, evaluated=not self.format_only)

    def compute_metrics(self, results: PredictionFiles) -> dict[str, float]:
        """Metrics without prefix; the predictions are read once."""
        logger = MMLogger.get_current_instance()
        tested: dict[int, int] = {}  # detections by image
        with ExitStack() as stack:
            add = []
            if self.outfile_prefix is not None:
                add.append(stack.enter_context(json_results_writer(self.outfile_prefix, self.cat_ids, results)))
            if not self.format_only:
                detections = Detections(self._lvis_api, results, 'segm' in self.metrics, self.topk)
                recall = ProposalRecall(self._lvis_api, self.proposal_nums, self.iou_thrs)
                add += [recall.add] if 'proposal_fast' in self.metrics else []
                add += [detections.add] if {'bbox', 'segm', 'proposal'}.intersection(self.metrics) else []
            for prediction in results:
                tested[prediction.image_id] = len(prediction.scores)
                for consume in add:
                    consume(prediction)
        if self.format_only:
            logger.info(f'results are saved in {Path(self.outfile_prefix).parent}')
            return {}
        self._report_gaps(tested)
        metrics = {}
        for metric in self.metrics:
            logger.info(f'Evaluating {metric}...')
            metrics.update(recall.summarize() if metric == 'proposal_fast' else self._evaluate(metric, detections))
        return metrics

    def _report_gaps(self, tested: dict[int, int]) -> None:
        logger = MMLogger.get_current_instance()
        missing = len(set(self.img_ids) - set(tested))
        if missing:
            logger.warning(
                f'{missing} of the {len(self.img_ids)} images of {self.ann_file} were not tested, and count as images '
                'without detections'
            )
        if not sum(tested.values()):
            logger.warning(f'there are no detections in any of {len(tested)} images: AP is 0')

    def _evaluate(self, metric: str, detections: Detections) -> dict[str, float]:
        """``metric``: 'bbox', 'segm' or 'proposal'."""
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

    def _by_class(self, evaluation: FastLVISEval) -> dict[str, float]:
        metrics, cells = {}, []
        for number, category in self._lvis_api.cats.items():
            precision = evaluation.eval['precision'][:, :, evaluation.params.cat_ids.index(number), 0]
            precision = precision[precision > -1]
            ap = round(precision.mean() if precision.size else np.nan, 3)
            metrics[f'{category["name"]}_precision'] = ap
            cells += [category['name'], f'{ap:.3f}']
        width = min(6, len(cells))
        rows = itertools.zip_longest(*[iter(cells)] * width)
        MMLogger.get_current_instance().info('\n' + AsciiTable([['category', 'AP'] * (width // 2), *rows]).table)
        return metrics


def prediction_of_sample(sample: dict) -> Prediction:
    """A data sample with predictions, as mmdet gives it to a metric.

    Raises:
        PredictionError: ``not-finite``, naming the image.
    """
    instances = sample['pred_instances']
    values = {}
    for key in [key for key in ('bboxes', 'scores', 'mask_scores') if key in instances]:
        values[key] = instances[key].detach().float().cpu().numpy()
        if not np.isfinite(values[key]).all():
            raise PredictionError('not-finite', f'image {sample["img_id"]}: {key} of its prediction are not finite')
    masks = None
    if 'masks' in instances:
        rles = instances['masks']
        if isinstance(rles, Tensor):
            rles = encode_mask_results(rles.detach().cpu().numpy())
        counts = [rle['counts'] if isinstance(rle['counts'], bytes) else rle['counts'].encode() for rle in rles]
        masks = Masks(tuple(rles[0]['size']) if rles else (0, 0), counts)
    labels = instances['labels'].cpu().numpy()
    return Prediction(sample['img_id'], values['bboxes'], values['scores'], labels, values.get('mask_scores'), masks)

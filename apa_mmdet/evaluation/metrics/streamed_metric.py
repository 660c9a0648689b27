"""What metrics have in common that write predictions to disk during a test and evaluate them from there."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmdet.structures.mask import encode_mask_results
from mmengine import dist, fileio
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from torch import Tensor

from apa_mmdet.evaluation.functional.category_matches import CategoryMatches
from apa_mmdet.evaluation.functional.detection_rows import IOU_TYPES, check_belongs
from apa_mmdet.evaluation.functional.gather_predictions import gather_files
from apa_mmdet.evaluation.functional.json_results import json_results_writer
from apa_mmdet.evaluation.functional.prediction_store import (
    Masks,
    Prediction,
    PredictionError,
    PredictionFiles,
    PredictionWriter,
)
from apa_mmdet.evaluation.functional.proposal_recall import ProposalRecall
from apa_mmdet.evaluation.functional.resampled_ap import resampled_means
from apa_mmdet.utils.errors import CodedError, one_line


class EvaluationError(CodedError):
    """An evaluation failed after a test; its predictions are kept.

    The code is that of the cause, ``evaluation-failed`` if it has none.

    Attributes:
        folder: of the predictions.
    """

    folder: Path | None = None

    @classmethod
    def of(cls, code: str, reason: str, folder: Path) -> 'EvaluationError':
        """The error of a cause."""
        error = cls(
            code,
            f'the evaluation failed: {reason}; the predictions are kept: evaluate them with '
            f'python tools/eval_results.py CONFIG {folder}',
        )
        error.folder = folder
        return error


class Resampled(NamedTuple):
    """Average precisions by name, each of every sample, (S,), and the ids of the tested images."""

    values: dict[str, np.ndarray]
    tested: frozenset[int]


class StreamedMetric(BaseMetric):
    """Predictions go to a file per process, and rank 0 evaluates the files of all; no rank keeps results.

    A subclass, which is also one of mmdet's metrics, calls :meth:`_prepare` in its constructor, and defines
    :meth:`load_ground_truth`, :meth:`_collectors`, :meth:`_evaluate`, :meth:`_matches` and :meth:`_groups`.

    Raises:
        PredictionError: from ``process``, ``not-finite``, ``duplicate-image``, or ``file-in-use`` if another metric
            writes under the same ``outfile_prefix``.
        EvaluationError: if an evaluation fails.
    """

    renumbers_annotations = True  # ids of annotations do not matter; the validation of data sets asks
    writes_masks = True  # which costs time to encode and space
    outfile_prefix: str | None
    backend_args: dict | None

    def _prepare(self, ann_file: str) -> None:
        """Raises FileNotFoundError if ``ann_file`` does not exist; all ranks call it."""
        backend = fileio.get_file_backend(ann_file, backend_args=self.backend_args)
        if hasattr(backend, 'exists') and not backend.exists(ann_file):  # an HTTP backend has no exists()
            raise FileNotFoundError(2, 'No such file or directory', ann_file)
        self.ann_file = ann_file
        token = torch.frombuffer(bytearray(os.urandom(8)), dtype=torch.uint8)
        dist.broadcast(token)
        self._token, self._tests = bytes(token.tolist()), itertools.count()
        self._open: PredictionWriter | None = None

    @staticmethod
    def _check_format_only(kwargs: Mapping[str, Any], metric: str) -> None:
        if kwargs.get('format_only') and kwargs.get('outfile_prefix') is None:
            raise ValueError(f'{metric} with format_only needs outfile_prefix, which names the files')

    def load_ground_truth(self) -> Any:
        """Read and validate the annotations; with ``format_only``, only the images and categories."""
        raise NotImplementedError

    def _collectors(self, results: PredictionFiles) -> tuple[Any, ProposalRecall]:
        """What collects the predictions of each image, by its method ``add``: for :meth:`_evaluate`, and for recall."""
        raise NotImplementedError

    def _evaluate(self, metric: str, detections: Any) -> dict[str, float]:
        """``metric``: 'bbox', 'segm' or 'proposal'."""
        raise NotImplementedError

    def _matches(self, metric: str, detections: Any) -> Iterator[tuple[int, CategoryMatches]]:
        """Of each category with objects, its position and matches; ``metric``: 'bbox' or 'segm'."""
        raise NotImplementedError

    def _groups(self) -> dict[str, np.ndarray]:
        """The categories, by position, of which each average precision is the mean: AP, and APr, APc, APf if known."""
        raise NotImplementedError

    def evaluate_files(self, predictions: PredictionFiles, ground_truth: Any = None) -> dict[str, float]:
        """The metrics of written predictions, with their prefix; no file is removed.

        Args:
            predictions: the files.
            ground_truth: what ``load_ground_truth`` returned, if it has been called.

        Raises:
            ValueError: if the annotations or the predictions are damaged, or do not belong together.
        """
        self._ground_truth = ground_truth or self.load_ground_truth()
        try:
            return self._prefixed(self.compute_metrics(predictions))
        finally:
            self._ground_truth = None  # a GiB for LVIS

    def resample_files(self, predictions: PredictionFiles, weights: np.ndarray, ground_truth: Any) -> Resampled:
        """The average precisions of written predictions under resampling of images, of boxes and masks, not rounded.

        Args:
            predictions: the files.
            weights: how often each sample has drawn each image, (I, S), the images by their sorted ids.
            ground_truth: what ``load_ground_truth`` returned.

        Raises:
            ValueError: if the predictions are damaged, or of other data.
        """
        self._ground_truth, values = ground_truth, {}
        try:
            detections, _ = self._collectors(predictions)
            tested = self._read(predictions, [detections.add])
            self._report_gaps(tested, ground_truth.imgs)
            for metric in (metric for metric in self.metrics if metric in IOU_TYPES):
                if metric == 'segm':
                    detections.report_mask_sizes()
                means = resampled_means(self._matches(metric, detections), weights, self._groups())
                values.update({f'{metric}_{name}': mean for name, mean in means.items()})
        finally:
            self._ground_truth = None
        return Resampled(values, frozenset(tested))

    def compute_metrics(self, results: PredictionFiles) -> dict[str, float]:
        """Metrics without prefix; the predictions are read once."""
        logger, truth = MMLogger.get_current_instance(), self._ground_truth
        with ExitStack() as stack:
            add: list[Callable] = []
            if self.outfile_prefix is not None:
                add.append(stack.enter_context(json_results_writer(self.outfile_prefix, truth.get_cat_ids(), results)))
            if not self.format_only:
                detections, recall = self._collectors(results)
                add += [recall.add] if 'proposal_fast' in self.metrics else []
                add += [detections.add] if {'bbox', 'segm', 'proposal'}.intersection(self.metrics) else []
            tested = self._read(results, add)
        if self.format_only:
            logger.info(f'results are saved in {Path(self.outfile_prefix).parent}')
            return {}
        self._report_gaps(tested, truth.imgs)
        metrics = {}
        for metric in self.metrics:
            logger.info(f'Evaluating {metric}...')
            metrics.update(recall.summarize() if metric == 'proposal_fast' else self._evaluate(metric, detections))
        return metrics

    def _read(self, predictions: PredictionFiles, consumers: Sequence[Callable]) -> dict[int, int]:
        """Gives each prediction that belongs to the annotations to all consumers; returns detections by image."""
        truth, tested = self._ground_truth, dict[int, int]()
        categories = len(truth.get_cat_ids())
        for prediction in predictions:
            check_belongs(prediction, truth, categories)
            tested[prediction.image_id] = len(prediction.scores)
            for consume in consumers:
                consume(prediction)
        return tested

    def _prefixed(self, metrics: Mapping[str, float]) -> dict[str, float]:
        return {f'{self.prefix}/{key}' if self.prefix else key: value for key, value in metrics.items()}

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
                self._writer.write(prediction_of_sample(sample, self.writes_masks))
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
            if not isinstance(error, CodedError):  # a line does not tell where it comes from
                MMLogger.get_current_instance().error('the evaluation failed', exc_info=error)
        code = cause.code if isinstance(cause, CodedError) else 'evaluation-failed'
        failure = cause and (code, one_line(cause, limit=1000))
        outcomes = dist.all_gather_object((metrics, failure))
        with suppress(OSError):  # has been flushed, or its error is in the failure
            writer.close()
        for _, failure in outcomes:
            if failure:
                raise EvaluationError.of(*failure, writer.folder) from cause
        if self.outfile_prefix is None:
            dist.barrier()  # all have closed their files
            shutil.rmtree(writer.folder, ignore_errors=True)  # ranks may share it
            dist.barrier()  # before any rank starts the next test there
        return outcomes[0][0]

    def _report_crowded(self, images: np.ndarray, counts: np.ndarray, limit: int, of: str, setting: str) -> None:
        """Log images with more objects than AP counts detections: not all of them can be found.

        Args:
            images, counts: for each image, or image and class, the image and its objects.
            limit: of the detections.
            of: ' of a class' if it is one for each class.
            setting: that raises it.
        """
        crowded = counts > limit
        if crowded.any() and not {*IOU_TYPES}.isdisjoint(self.metrics):
            number = len(np.unique(images[crowded]))
            MMLogger.get_current_instance().warning(
                f'{self.ann_file}: {number} images have more than {limit} objects{of}, at most {counts.max()}; AP '
                f'counts only the {limit} most confident detections{of} in an image: set {setting} in the metric'
            )

    def _report_gaps(self, tested: dict[int, int], image_ids: Sequence[int]) -> None:
        """Log untested images, and a test without detections; ``tested``: their number by image."""
        logger = MMLogger.get_current_instance()
        missing = len(set(image_ids) - set(tested))
        if missing:
            logger.warning(
                f'{missing} of the {len(image_ids)} images of {self.ann_file} were not tested, and count as images '
                'without detections'
            )
        if not sum(tested.values()):
            logger.warning(f'there are no detections in any of {len(tested)} images: AP is 0')


def prediction_of_sample(sample: dict, masks: bool) -> Prediction:
    """A data sample with predictions, as mmdet gives it to a metric; ``masks``: whether masks are encoded and kept.

    Raises:
        PredictionError: ``not-finite``, naming the image.
    """
    instances = sample['pred_instances']
    values = {}
    for key in [key for key in ('bboxes', 'scores', 'mask_scores') if key in instances]:
        values[key] = instances[key].detach().float().cpu().numpy()
        if not np.isfinite(values[key]).all():
            raise PredictionError('not-finite', f'image {sample["img_id"]}: {key} of its prediction are not finite')
    encoded = None
    if masks and 'masks' in instances:
        rles = instances['masks']
        if isinstance(rles, Tensor):
            rles = encode_mask_results(rles.detach().cpu().numpy())
        counts = [rle['counts'] if isinstance(rle['counts'], bytes) else rle['counts'].encode() for rle in rles]
        encoded = Masks(tuple(rles[0]['size']) if rles else (0, 0), counts)
    labels = instances['labels'].cpu().numpy()
    return Prediction(sample['img_id'], values['bboxes'], values['scores'], labels, values.get('mask_scores'), encoded)

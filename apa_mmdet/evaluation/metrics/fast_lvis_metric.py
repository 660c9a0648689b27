import itertools
import json
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from lvis import LVIS
from mmdet.evaluation import LVISMetric, bbox_overlaps
from mmdet.evaluation.functional.recall import _recalls, print_recall_summary, set_recall_param
from mmdet.registry import METRICS
from mmdet.structures.mask import encode_mask_results
from mmengine import dist, fileio
from mmengine.logging import MMLogger
from terminaltables import AsciiTable
from torch import Tensor

from apa_mmdet.evaluation.functional.lvis_eval import FastLVISEval, Limits, load_ground_truth
from apa_mmdet.evaluation.functional.prediction_store import (
    Masks,
    Prediction,
    PredictionFiles,
    PredictionWriter,
    gather_files,
)
from apa_mmdet.utils.errors import brief

AVERAGE_PRECISIONS = 'AP', 'AP50', 'AP75', 'APs', 'APm', 'APl', 'APr', 'APc', 'APf'
AVERAGE_RECALLS = 'AR@300', 'ARs@300', 'ARm@300', 'ARl@300'


@METRICS.register_module()
class FastLVISMetric(LVISMetric):
    """mmdet's ``LVISMetric``, with the same arguments and results, for the whole of LVIS in little memory.

    Predictions are written to files as they come, beside the log of the run, and evaluated from there by
    faster-coco-eval; the annotations are read for the evaluation alone, by rank 0. When it has succeeded the files are
    removed, unless there is an ``outfile_prefix``: then they stay in ``<outfile_prefix>.predictions``, beside the JSON
    files of that prefix. If it fails they stay as well, and ``tools/eval_results.py`` finishes from them. All ranks
    make their metrics in the same order: they agree on a name there.

    As in mmdet, 'proposal' is recall by category, and ``iou_thrs`` is for 'proposal_fast' alone. Unlike there, a test
    without any detection has AP 0 instead of no result.

    Args:
        ann_file: annotations as LVIS has them, v1 or v0.5; required.
        args, kwargs: mmdet's; ``collect_device`` changes nothing.
        max_per_class: fixed AP (Dave et al., *Evaluating Large-Vocabulary Object Detectors: The Devil is in the
            Details*, arXiv:2102.01066): the best so many (10,000 there) of each category in all images count, however
            many there are in an image, instead of the best 300 of each image.

    Raises:
        ValueError: for arguments that do not go together, or from ``process`` for a prediction that is not finite, for
            an image that comes a second time, and if another metric writes under the same ``outfile_prefix``.
        FileNotFoundError: if there is no such ``ann_file``.
        RuntimeError: if an evaluation fails; it names the folder of the predictions.
    """

    renumbers_annotations = True  # ids of annotations do not matter; the validation of data sets asks

    def __init__(self, ann_file: str | None = None, *args, max_per_class: int | None = None, **kwargs) -> None:
        if ann_file is None:
            raise ValueError('FastLVISMetric needs ann_file: it says which categories were looked for in an image')
        if kwargs.get('format_only') and kwargs.get('outfile_prefix') is None:
            raise ValueError('FastLVISMetric with format_only needs outfile_prefix: where to write the files')
        if max_per_class is not None and max_per_class < 1:
            raise ValueError(f'max_per_class is {max_per_class}; at least one detection of a class has to count')
        super().__init__(None, *args, **kwargs)
        if max_per_class is not None and 'proposal' in self.metrics:
            raise ValueError("metric 'proposal' counts 300 detections of an image; max_per_class counts others")
        backend = fileio.get_file_backend(ann_file, backend_args=self.backend_args)
        if hasattr(backend, 'exists') and not backend.exists(ann_file):  # a web server cannot be asked
            raise FileNotFoundError(2, 'No such file or directory', ann_file)
        self.ann_file, self.limits = ann_file, Limits(per_class=max_per_class)
        token = torch.frombuffer(bytearray(os.urandom(8)), dtype=torch.uint8)
        dist.broadcast(token)
        self._token, self._tests = bytes(token.tolist()), itertools.count()
        self._open: PredictionWriter | None = None

    # While testing, on every rank

    @property
    def _writer(self) -> PredictionWriter:
        if self._open is None:
            token = self._token + next(self._tests).to_bytes(8, 'little')  # the same on all ranks
            self._open = PredictionWriter(self._folder(), *dist.get_dist_info(), token)
            MMLogger.get_current_instance().info(f'Predictions are written to {self._open.folder}')
        return self._open

    def _folder(self) -> Path:
        """Beside the log of the run, where another run may have begun in the same second; or a temporary folder."""
        if self.outfile_prefix is not None:
            return Path(f'{self.outfile_prefix}.predictions')
        log = MMLogger.get_current_instance().log_file
        return (Path(log).parent if log else Path(tempfile.gettempdir())) / f'predictions_{self._token.hex()}'

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Write the predictions of a batch."""
        try:
            for sample in data_samples:
                self._writer.write(_prediction(sample))
        except Exception:  # ends this test; the next one begins anew
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
        except Exception as error:  # every rank hears of it, whatever it is
            cause = error
        outcomes = dist.all_gather_object((metrics, cause and f'{type(cause).__name__}: {brief(cause, None)}'))
        with suppress(OSError):  # has been flushed, or is in the failure
            writer.close()
        for _, failure in outcomes:
            if failure:
                raise RuntimeError(
                    f'the evaluation failed: {failure}; the predictions are kept, and python tools/eval_results.py '
                    f'CONFIG {writer.folder} evaluates them'
                ) from cause
        if self.outfile_prefix is None:
            dist.barrier()  # all have closed their files
            shutil.rmtree(writer.folder, ignore_errors=True)  # ranks may share it
            dist.barrier()  # before any begins the next one there
        return outcomes[0][0]

    # Evaluation, on rank 0

    def evaluate_files(self, predictions: PredictionFiles) -> dict[str, float]:
        """The metrics of what was written, with their prefix; nothing is removed.

        Raises:
            ValueError: if the annotations or the predictions are damaged, or do not belong together.
        """
        self._lvis_api = self._ground_truth()
        self.cat_ids, self.img_ids = self._lvis_api.get_cat_ids(), self._lvis_api.get_img_ids()
        try:
            metrics = self.compute_metrics(predictions)
        finally:
            self._lvis_api = None  # a GiB, which training has better use for
        return {f'{self.prefix}/{key}' if self.prefix else key: value for key, value in metrics.items()}

    def _ground_truth(self) -> LVIS:
        with fileio.get_local_path(self.ann_file, backend_args=self.backend_args) as path:
            return load_ground_truth(path, masks='segm' in self.metrics)

    def category_ids(self) -> list[int]:
        """Of label 0, 1, …; from the annotations."""
        return self._ground_truth().get_cat_ids()

    def compute_metrics(self, results: PredictionFiles) -> dict[str, float]:
        """Metrics without prefix."""
        logger = MMLogger.get_current_instance()
        if self.outfile_prefix is not None:
            self.results2json(results, self.outfile_prefix)
        if self.format_only:
            logger.info(f'results are saved in {Path(self.outfile_prefix).parent}')
            return OrderedDict()
        self._report_gaps(results)
        metrics = OrderedDict()
        for metric in self.metrics:
            logger.info(f'Evaluating {metric}...')
            if metric == 'proposal_fast':
                metrics.update(self._proposal_recall(results))
            else:
                metrics.update(self._average_precision(metric, results))
        return metrics

    def _report_gaps(self, predictions: PredictionFiles) -> None:
        logger = MMLogger.get_current_instance()
        counts = {prediction.image_id: len(prediction.scores) for prediction in predictions}
        missing = len(set(self.img_ids) - set(counts))
        if missing:
            logger.warning(
                f'{missing} of the {len(self.img_ids)} images of {self.ann_file} were not tested, and count '
                'as images where nothing was found'
            )
        if not sum(counts.values()):
            logger.warning(f'nothing was found in any of {len(counts)} images: AP is 0')

    def _average_precision(self, metric: str, predictions: PredictionFiles) -> dict[str, float]:
        evaluation = FastLVISEval(self._lvis_api, predictions, 'segm' if metric == 'segm' else 'bbox', self.limits)
        evaluation.run()
        found = evaluation.get_results()
        metrics = OrderedDict()
        if self.classwise and metric != 'proposal':
            metrics.update(self._by_class(evaluation))
        items = self.metric_items
        if items is None:
            items = AVERAGE_RECALLS if metric == 'proposal' else AVERAGE_PRECISIONS
        head = '' if metric == 'proposal' else f'{metric}_'
        metrics.update({f'{head}{key}': float(f'{value:.3f}') for key, value in found.items() if key in items})
        said = ', '.join(f'{key} {value:.3f}' for key, value in found.items())
        MMLogger.get_current_instance().info(f'{metric}: {said}')
        return metrics

    def _by_class(self, evaluation: FastLVISEval) -> dict[str, float]:
        metrics, cells = OrderedDict(), []
        for number in self.cat_ids:
            precision = evaluation.eval['precision'][:, :, evaluation.params.cat_ids.index(number), 0]
            found = precision[precision > -1]
            name = self._lvis_api.cats[number]['name']
            metrics[f'{name}_precision'] = round(found.mean() if found.size else np.nan, 3)
            cells += [name, f'{metrics[f"{name}_precision"]:.3f}']
        width = min(6, len(cells))
        rows = itertools.zip_longest(*[iter(cells)] * width)
        MMLogger.get_current_instance().info('\n' + AsciiTable([['category', 'AP'] * (width // 2), *rows]).table)
        return metrics

    def _proposal_recall(self, predictions: PredictionFiles) -> dict[str, float]:
        """As mmdet's ``eval_recalls``, which fails (NumPy ≥ 1.24) where images differ in their number of boxes."""
        counts, thresholds = set_recall_param(self.proposal_nums, self.iou_thrs)
        hits, total = np.zeros((len(counts), len(thresholds))), len(self._lvis_api.anns)
        for prediction in predictions:
            objects = np.array([a['bbox'] for a in self._lvis_api.img_ann_map.get(prediction.image_id, ())], np.float64)
            if len(objects):
                objects[:, 2:] += objects[:, :2]
                overlaps = bbox_overlaps(objects.astype(np.float32), prediction.boxes[: counts[-1]])
                hits += np.rint(_recalls(overlaps[None], counts, thresholds) * len(objects))
        recalls = hits / (total or np.nan)
        print_recall_summary(recalls, counts, thresholds, logger=MMLogger.get_current_instance())
        return {f'AR@{count}': recall for count, recall in zip(self.proposal_nums, recalls.mean(axis=1))}

    def results2json(self, results: PredictionFiles, outfile_prefix: str) -> dict[str, str]:
        """Write mmdet's files, an image at a time: ``<prefix>.bbox.json`` and, of masks, ``<prefix>.segm.json``."""
        Path(outfile_prefix).parent.mkdir(parents=True, exist_ok=True)
        masks = any(prediction.masks for prediction in results)
        written = {}
        for kind in ('bbox', 'segm')[: 1 + masks]:
            written[kind] = f'{outfile_prefix}.{kind}.json'
            with results.open() as files, open(written[kind], 'w', encoding='utf-8') as out:
                separator = '['
                for prediction in results:
                    if kind == 'segm' and prediction.masks is None:
                        continue  # as mmdet does
                    for found in self._as_json(prediction, files[prediction.file] if kind == 'segm' else None):
                        out.write(separator + json.dumps(found))
                        separator = ', '
                out.write(']' if separator == ', ' else '[]')
        return dict(written, proposal=written['bbox'])

    def _as_json(self, prediction: Prediction, file: BinaryIO | None) -> Iterator[dict]:
        """As mmdet writes it; with masks if there is a ``file`` to read them from."""
        scores = prediction.scores
        if file and prediction.mask_scores is not None:
            scores = prediction.mask_scores
        corners = prediction.boxes.astype(np.float64)
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
        for i, (box, score, label) in enumerate(zip(boxes, scores.tolist(), prediction.labels.tolist())):
            found = dict(image_id=prediction.image_id, bbox=box, score=score, category_id=self.cat_ids[label])
            if file:
                file.seek(prediction.masks.offsets[i])
                counts = file.read(prediction.masks.lengths[i]).decode()
                found['segmentation'] = dict(size=list(prediction.masks.size), counts=counts)
            yield found


def _prediction(sample: dict) -> Prediction:
    found = sample['pred_instances']
    values = {
        key: found[key].detach().float().cpu().numpy() for key in ('bboxes', 'scores', 'mask_scores') if key in found
    }
    for key, numbers in values.items():
        if not np.isfinite(numbers).all():
            raise ValueError(f'image {sample["img_id"]}: {key} of its prediction are not finite')
    masks = None
    if 'masks' in found:
        rles = found['masks']
        if isinstance(rles, Tensor):
            rles = encode_mask_results(rles.detach().cpu().numpy())
        counts = [rle['counts'] if isinstance(rle['counts'], bytes) else rle['counts'].encode() for rle in rles]
        masks = Masks(tuple(rles[0]['size']) if rles else (0, 0), counts)
    return Prediction(
        sample['img_id'],
        values['bboxes'],
        values['scores'],
        found['labels'].cpu().numpy(),
        values.get('mask_scores'),
        masks,
    )

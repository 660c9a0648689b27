"""Metrics of COCO or LVIS, or result files, of predictions on disk: those a test kept, or MMDetection's files."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmdet.evaluation import CocoMetric, LVISMetric
from mmdet.registry import DATASETS, METRICS
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import init_default_scope

from apa_mmdet.evaluation import FastCocoMetric, FastLVISMetric
from apa_mmdet.evaluation.functional.detection_rows import IOU_TYPES
from apa_mmdet.evaluation.functional.dumped_results import read_dumped_results
from apa_mmdet.evaluation.functional.json_results import read_json_results
from apa_mmdet.evaluation.functional.prediction_store import (
    PredictionError,
    PredictionFiles,
    PredictionWriter,
    find_predictions,
)
from apa_mmdet.evaluation.metrics.streamed_metric import StreamedMetric, prediction_of_sample
from apa_mmdet.utils.config import BadConfig, evaluators, leaves, load_config, section
from apa_mmdet.utils.errors import in_one_line
from apa_mmdet.utils.registered_classes import class_of

PICKLES = '.pkl', '.pickle'
# for mmdet's metrics; a subclass of theirs, as CocoOccludedSeparatedMetric, may compute something else
FAST: dict[type, type] = {LVISMetric: FastLVISMetric, CocoMetric: FastCocoMetric}


def eval_results(config: str, predictions: str, cfg_options: dict | None = None) -> dict[str, float]:
    """The metrics that the test of ``config`` would have given; with ``format_only`` in it, the files, and no metrics.

    Boxes and scores of result files are read as float32, as a detector gives them: scores that differ in later digits
    become ties.

    Args:
        config: with a FastLVISMetric or FastCocoMetric in its ``test_evaluator``; mmdet's LVISMetric and CocoMetric are
            replaced. Of several, that whose ``outfile_prefix`` names the folder is taken, or else the first.
        predictions: the folder that the metric logs, ``<prefix>.bbox.json`` or ``<prefix>.segm.json``, or the file of
            ``tools/test.py --out``.
        cfg_options: settings of the config to override.

    Raises:
        FileNotFoundError: if the predictions or the annotations do not exist.
        BadConfig: ``no-metric``, if the config has no such metric.
        CodedError: ``not-buildable``, if the metric cannot be built.
        PredictionError: if the predictions are damaged or of other data; its ``code`` says which.
    """
    path = Path(predictions)
    metric = build_metric(config, path, cfg_options)
    if metric.format_only and path.suffix == '.json':
        line = ' is a result file already; set format_only=False in test_evaluator to evaluate it'
        raise PredictionError.of('result-file', path, line)
    check_results(path, metric)
    ground_truth = metric.load_ground_truth()
    with open_results(path, metric, ground_truth) as files:
        return metric.evaluate_files(files, ground_truth)


def check_results(path: Path, metric: StreamedMetric) -> None:
    """Check what can be checked of saved predictions without reading them, or the annotations.

    A file of detections, ``<prefix>.bbox.json``, has one kind only, to which the ``metrics`` of ``metric`` are reduced.

    Raises:
        FileNotFoundError: if there are none.
        PredictionError: ``not-predictions`` if they are of no known kind, ``other-metric`` if of one that ``metric``
            does not evaluate.
    """
    iou_type = path.name.removesuffix('.json').rpartition('.')[2]
    if path.is_dir():
        find_predictions(path)
        return
    if path.suffix == '.json' and iou_type in IOU_TYPES:
        if iou_type not in metric.metrics:
            line = f' is for metric {iou_type!r}, which test_evaluator of the config does not have'
            raise PredictionError.of('other-metric', path, line)
        metric.metrics = [iou_type]
    elif path.suffix not in PICKLES:
        raise PredictionError.of(
            'not-predictions',
            path,
            ' is neither a folder nor named <prefix>.bbox.json, <prefix>.segm.json, or .pkl as what '
            'tools/test.py --out writes',
        )
    if not path.is_file():
        raise FileNotFoundError(2, 'No such file or directory', str(path))


@contextmanager
def open_results(path: Path, metric: StreamedMetric, ground_truth: Any) -> Iterator[PredictionFiles]:
    """Saved predictions that were checked; those in one file are copied to a temporary folder.

    Raises:
        PredictionError: if they cannot be read.
    """
    if path.is_dir():
        yield find_predictions(path)
        return
    if path.suffix in PICKLES:
        masks = 'segm' in metric.metrics or metric.format_only
        found = (prediction_of_sample(sample, masks) for sample in read_dumped_results(path))
    else:
        found = read_json_results(path, ground_truth.get_cat_ids())
    with tempfile.TemporaryDirectory() as folder:
        writer = PredictionWriter(Path(folder))
        for prediction in found:
            writer.write(prediction)
        writer.close()
        yield find_predictions(Path(folder))


def build_metric(config: str, predictions: Path, cfg_options: dict | None = None) -> StreamedMetric:
    """The metric in ``test_evaluator`` that belongs to the predictions, as a FastLVISMetric or FastCocoMetric.

    It writes files only with ``format_only``: after an evaluation they are there already.
    """
    cfg = load_config(config, cfg_options)
    init_default_scope('mmdet')
    found = []
    for _, evaluator in evaluators(cfg, ['test']):
        metric = class_of(evaluator, METRICS) or object
        metric = FAST.get(metric, metric)
        if issubclass(metric, (FastLVISMetric, FastCocoMetric)) and evaluator.get('ann_file'):
            found.append(dict(evaluator, type=metric))
    if not found:
        line = f'{config} has no FastLVISMetric or FastCocoMetric with an ann_file in its test_evaluator'
        raise BadConfig('no-metric', line)
    own = [e for e in found if Path(f'{e.get("outfile_prefix")}.predictions').resolve() == predictions.resolve()]
    chosen = (own or found)[0]
    with in_one_line('not-buildable', f'config {config}: its metric cannot be built', keep=FileNotFoundError):
        metric = METRICS.build(chosen if chosen.get('format_only') else dict(chosen, outfile_prefix=None))
        metric.dataset_meta = _metainfo(cfg, chosen['ann_file'])
    return metric


def _metainfo(cfg: Config, ann_file: str) -> dict:
    """The metainfo of the test data of an annotation file, by whose classes a metric knows what a label means."""
    datasets = list(leaves(section(cfg, 'test_dataloader').get('dataset')))
    of_file = [d for d in datasets if os.path.join(d.get('data_root') or '', d.get('ann_file') or '') == ann_file]
    for dataset in of_file or datasets[:1]:
        return dict(class_of(dataset, DATASETS).METAINFO, **BaseDataset._load_metainfo(dataset.get('metainfo')))
    return {}

"""Metrics from predictions on disk: what an interrupted test left, or the JSON files of MMDetection."""
import json
import tempfile
from itertools import groupby
from pathlib import Path
from typing import Dict, Iterator, Optional, Sequence

import numpy as np
from mmdet.registry import METRICS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from ..evaluation import FastLVISMetric
from ..evaluation.prediction_files import Masks, Prediction, PredictionWriter, files_in

PIECE, LONGEST = 2**20, 2**24  # characters read at once; of a detection


def eval_results(config: str, predictions: str, cfg_options: Optional[dict] = None) -> Dict[str, float]:
    """The metrics that the test of ``config`` would have given.

    Args:
        config: with a FastLVISMetric as ``test_evaluator``, or the first in it; mmdet's LVISMetric counts as one.
        predictions: the folder that FastLVISMetric names, or ``<prefix>.bbox.json`` or ``<prefix>.segm.json``.
        cfg_options: settings of the config.

    Raises:
        FileNotFoundError: if something is not there.
        ValueError: if the config has no such metric, or the predictions are damaged or do not fit.
    """
    metric = metric_of(config, cfg_options)
    path = Path(predictions)
    if path.is_dir():
        return metric.evaluate_files(files_in(path))
    kind = path.name.split('.')[-2:]
    if kind not in (['bbox', 'json'], ['segm', 'json']):
        raise ValueError(f'{path} is neither a folder nor called ….bbox.json or ….segm.json')
    if kind[0] not in metric.metrics:
        raise ValueError(f'{path} is for metric {kind[0]!r}, which test_evaluator of {config} does not ask for')
    metric.metrics = kind[:1]
    with tempfile.TemporaryDirectory() as folder:
        writer = PredictionWriter(Path(folder))
        for prediction in read_json(path, metric.category_ids()):
            writer.write(prediction)
        writer.close()
        return metric.evaluate_files(files_in(Path(folder)))


def metric_of(config: str, cfg_options: Optional[dict] = None) -> FastLVISMetric:
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(cfg_options or {})
    init_default_scope('mmdet')
    evaluators = cfg.get('test_evaluator') or []
    for evaluator in [evaluators] if isinstance(evaluators, dict) else evaluators:
        if evaluator['type'] in ('FastLVISMetric', 'LVISMetric'):
            return METRICS.build(dict(evaluator, type='FastLVISMetric', format_only=False, outfile_prefix=None))
    raise ValueError(f'{config} has no FastLVISMetric in its test_evaluator')


def read_json(path: Path, category_ids: Sequence[int]) -> Iterator[Prediction]:
    """The predictions of a JSON file as MMDetection writes it, image by image.

    Args:
        path: the file, in which the detections of an image stand together.
        category_ids: of label 0, 1, ….

    Raises:
        ValueError: naming the file and what is wrong.
    """
    label_of, seen = {number: label for label, number in enumerate(category_ids)}, set()
    try:
        for image_id, found in groupby(_objects(path), key=lambda detection: detection['image_id']):
            if image_id in seen:
                raise ValueError(f'the detections of image {image_id} do not stand together')
            seen.add(image_id)
            yield _prediction(image_id, list(found), label_of)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = f'{error.args[0]!r} is not known or missing' if isinstance(error, KeyError) else error
        raise ValueError(f'{path}: {what}') from error


def _prediction(image_id: int, found: Sequence[dict], label_of: Dict[int, int]) -> Prediction:
    boxes = np.array([detection['bbox'] for detection in found], float).reshape(len(found), 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = None
    if 'segmentation' in found[0]:
        rles = [detection['segmentation'] for detection in found]
        masks = Masks(tuple(rles[0]['size']), [rle['counts'].encode() for rle in rles])
    return Prediction(image_id, boxes, np.array([detection['score'] for detection in found]),
                      np.array([label_of[detection['category_id']] for detection in found]), None, masks)


def _objects(path: Path) -> Iterator[dict]:
    """The members of a JSON list, which is not held in memory whole."""
    decoder, text, at = json.JSONDecoder(), '', 0
    with path.open(encoding='utf-8') as file:
        if file.read(1) != '[':
            raise ValueError('it does not begin as a list of detections')
        while piece := file.read(PIECE):
            text, at = text[at:] + piece, 0
            while (start := text.find('{', at)) >= 0:
                try:
                    found, at = decoder.raw_decode(text, start)
                except json.JSONDecodeError:  # goes on in the next piece
                    break
                yield found
            if len(text) - at > LONGEST:
                break
    if text[at:].strip() != ']':
        raise ValueError('it ends too early or is damaged: what follows the last whole detection is '
                         f'{text[at:at + 40].strip()!r}')

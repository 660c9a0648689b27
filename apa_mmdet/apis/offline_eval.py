"""Metrics from predictions on disk: what an interrupted test left, or the JSON files of MMDetection."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from mmdet.evaluation import LVISMetric
from mmdet.registry import METRICS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from apa_mmdet.evaluation import FastLVISMetric
from apa_mmdet.evaluation.functional.prediction_store import (
    Masks,
    Prediction,
    PredictionFiles,
    PredictionWriter,
    files_in,
)
from apa_mmdet.structures.rle import is_rle
from apa_mmdet.utils.errors import brief

PIECE, LONGEST = 2**20, 2**24  # characters read at once; of a detection


def eval_results(config: str, predictions: str, cfg_options: dict | None = None) -> dict[str, float]:
    """The metrics that the test of ``config`` would have given.

    Boxes and scores of JSON files are taken as float32, as a detector gives them: scores that differ in later digits
    become ties.

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
        return _evaluate(metric, files_in(path), path)
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
        return _evaluate(metric, files_in(Path(folder)), path)


def _evaluate(metric: FastLVISMetric, predictions: PredictionFiles, path: Path) -> dict[str, float]:
    """``path``: what errors are about."""
    try:
        return metric.evaluate_files(predictions)
    except Exception as error:
        kind = '' if isinstance(error, ValueError) else f'{type(error).__name__}: '
        raise ValueError(f'{path} cannot be evaluated: {kind}{brief(error, None)}') from error


def metric_of(config: str, cfg_options: dict | None = None) -> FastLVISMetric:
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(cfg_options or {})
    init_default_scope('mmdet')
    evaluators = cfg.get('test_evaluator') or []
    for evaluator in [evaluators] if isinstance(evaluators, dict) else evaluators:
        kind = evaluator['type'] if isinstance(evaluator['type'], type) else METRICS.get(evaluator['type'])
        if kind and issubclass(kind, LVISMetric):
            kind = kind if issubclass(kind, FastLVISMetric) else FastLVISMetric
            return METRICS.build(dict(evaluator, type=kind, format_only=False, outfile_prefix=None))
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
    where = ''
    try:
        for image_id, found in groupby(_objects(path), key=lambda detection: detection['image_id']):
            where = f'after image {image_id!r}: '
            found = list(found)
            where = f'image {image_id!r}: '
            if type(image_id) is not int or not -(2**63) <= image_id < 2**63:
                raise ValueError('image_id is not a whole number of 64 bits')
            if image_id in seen:
                raise ValueError('its detections do not stand together')
            seen.add(image_id)
            yield _prediction(image_id, found, label_of)
    except (KeyError, RecursionError, ValueError) as error:
        what = f'a detection has no {error.args[0]!r}' if isinstance(error, KeyError) else error
        raise ValueError(f'{path}: {where}{what}') from error


def _prediction(image_id: int, found: Sequence[dict], label_of: dict[int, int]) -> Prediction:
    boxes, scores = _numbers(found, 'bbox', 4), _numbers(found, 'score', 1).ravel()
    categories = [detection['category_id'] for detection in found]
    for category in categories:
        if type(category) is not int or category not in label_of:
            raise ValueError(f'category_id {category!r} of a detection is not in the annotations')
    boxes[:, 2:] += boxes[:, :2]
    return Prediction(
        image_id, boxes, scores, np.array([label_of[category] for category in categories]), None, _masks(found)
    )


def _numbers(found: Sequence[dict], key: str, count: int) -> np.ndarray:
    """(detections, count), float64; of numbers that float32 can hold."""
    try:
        values = np.array([detection[key] for detection in found])
        if values.dtype.kind in 'if' and np.abs(values).max() < np.finfo(np.float32).max / 2:  # not so NaN
            return values.astype(float).reshape(len(found), count)
    except ValueError:  # not as many in each
        pass
    raise ValueError(f'{key} of a detection is not {count} finite number{"s"[: count - 1]}')


def _masks(found: Sequence[dict]) -> Masks | None:
    rles = [detection.get('segmentation') for detection in found]
    if not any(rles):
        return None
    size = rles[0].get('size') if isinstance(rles[0], dict) else None
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        raise ValueError('segmentation of a detection is no RLE with a size of height and width')
    for rle in rles:
        if not isinstance(rle, dict) or rle.get('size') != size:
            raise ValueError(f'segmentation of a detection has not the size {size} of the others')
        if not isinstance(rle.get('counts'), str) or not is_rle(rle['counts'].encode(), size[0] * size[1]):
            raise ValueError(f'segmentation of a detection is no compressed RLE of {size[0]} x {size[1]} pixels')
    return Masks(tuple(size), [rle['counts'].encode() for rle in rles])


def _objects(path: Path) -> Iterator[dict]:
    """The members of a JSON list, which is not held in memory whole."""
    decoder, text, at, comma = json.JSONDecoder(), '', 0, ''
    with path.open(encoding='utf-8') as file:
        if file.read(1) != '[':
            raise ValueError('it does not begin as a list of detections')
        while piece := file.read(PIECE):
            text, at = text[at:] + piece, 0
            while (start := text.find('{', at)) >= 0:
                if text[at:start].strip() != comma:
                    raise ValueError(f'it is damaged: before a detection stands {text[at:start][:40].strip()!r}')
                try:
                    found, at = decoder.raw_decode(text, start)
                except json.JSONDecodeError:  # goes on in the next piece
                    break
                comma = ','
                yield found
            if len(text) - at > LONGEST:
                break
    if text[at:].strip() != ']':
        raise ValueError(
            f'it ends too early or is damaged: what follows the last whole detection is {text[at : at + 40].strip()!r}'
        )

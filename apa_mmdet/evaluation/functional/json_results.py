"""MMDetection's result files: ``<prefix>.bbox.json`` and ``<prefix>.segm.json``, each a list of detections."""

import itertools
import json
import reprlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from apa_mmdet.datasets.annotations.records import is_integer_id, is_number
from apa_mmdet.structures.rle import is_rle
from apa_mmdet.utils.errors import one_line
from apa_mmdet.utils.fileio import atomic_open

from .prediction_store import Masks, Prediction, PredictionError, PredictionFiles, as_xywh


@contextmanager
def json_results_writer(
    prefix: str, category_ids: Sequence[int], predictions: PredictionFiles
) -> Iterator[Callable[[Prediction], None]]:
    """Write the predictions that are given to it as MMDetection does; that of masks only if there are some.

    If that fails, no file is written, and one of that name stays as it was.

    Args:
        prefix: of the files.
        category_ids: of label 0, 1, ….
        predictions: the files that the predictions are read from.
    """
    with ExitStack() as stack:
        read_mask = stack.enter_context(predictions.open_masks())
        write = dict(bbox=stack.enter_context(_json_list(f'{prefix}.bbox.json')))

        def add(prediction: Prediction) -> None:
            masks = prediction.masks
            if masks and 'segm' not in write:
                write['segm'] = stack.enter_context(_json_list(f'{prefix}.segm.json'))
            columns = prediction.scores, prediction.labels, prediction.mask_scores
            rows = zip(as_xywh(prediction.boxes), *(values.tolist() for values in columns))
            for i, (box, score, label, mask_score) in enumerate(rows):
                record = dict(image_id=prediction.image_id, bbox=box, score=score, category_id=category_ids[label])
                write['bbox'](record)
                if masks:
                    counts = read_mask(prediction.file, masks.offsets[i], masks.lengths[i]).decode()
                    rle = dict(size=list(masks.size), counts=counts)
                    write['segm'](dict(record, score=mask_score, segmentation=rle))

        yield add


@contextmanager
def _json_list(path: str) -> Iterator[Callable[[dict], None]]:
    """Write a list of records to a file, one by one."""
    with atomic_open(path, 'w', encoding='utf-8') as file:
        file.write('[')
        separators = itertools.chain([''], itertools.repeat(', '))
        yield lambda record: file.write(next(separators) + json.dumps(record))
        file.write(']')


def read_json_results(path: Path, category_ids: Sequence[int]) -> Iterator[Prediction]:
    """The predictions in a result file of MMDetection, image by image; the file is held in memory.

    Args:
        path: the file; its detections may be in any order.
        category_ids: of label 0, 1, ….

    Raises:
        PredictionError: ``not-json`` or ``bad-record``, naming the file and the record.
    """
    try:
        detections = json.loads(path.read_text(encoding='utf-8'))
    except (RecursionError, ValueError) as error:
        raise PredictionError.of('not-json', path, f' is not JSON, or was cut off: {one_line(error)}') from None
    if not isinstance(detections, list):
        raise PredictionError.of('not-json', path, ' is not a list of detections')
    label_of = {number: label for label, number in enumerate(category_ids)}
    by_image: dict[int, list[dict]] = {}
    sizes: dict[int, tuple[int, int] | None] = {}
    for i, detection in enumerate(detections):
        if fault := _fault(detection, label_of, sizes):
            raise PredictionError.of('bad-record', path, f': detections[{i}]: {fault}')
        by_image.setdefault(detection['image_id'], []).append(detection)
    del detections
    for image_id, found in by_image.items():
        boxes = np.array([detection['bbox'] for detection in found], np.float64)
        boxes[:, 2:] += boxes[:, :2]
        scores = np.array([detection['score'] for detection in found], np.float64)
        labels = np.array([label_of[detection['category_id']] for detection in found])
        size = sizes[image_id]
        masks = size and Masks(size, [detection['segmentation']['counts'].encode() for detection in found])
        yield Prediction(image_id, boxes, scores, labels, None, masks)


def _fault(detection: Any, label_of: dict[int, int], sizes: dict[int, tuple[int, int] | None]) -> str | None:
    """What is wrong with a record; ``sizes``: of the masks of each image, None without masks."""
    if not isinstance(detection, dict):
        return f'{reprlib.repr(detection)} is not an object'
    image_id, category, box = (detection.get(key) for key in ('image_id', 'category_id', 'bbox'))
    for key, is_right, expected in (
        ('image_id', is_integer_id(image_id), 'an integer of 64 bits'),
        ('category_id', type(category) is int and category in label_of, 'the id of a category of the annotations'),
        ('bbox', isinstance(box, list) and len(box) == 4 and all(map(is_number, box)), '4 finite numbers'),
        ('score', is_number(detection.get('score')), 'a finite number'),
    ):
        if not is_right:
            value = reprlib.repr(detection[key]) if key in detection else 'missing'
            return f'{key} is {value}, not {expected}'
    mask = detection.get('segmentation')
    size = _mask_size(mask) if mask else None
    if mask and size is None:
        return f'image {image_id}: segmentation is {reprlib.repr(mask)}, not a compressed RLE of a mask'
    if size != sizes.setdefault(image_id, size):
        return f'image {image_id}: segmentation is of size {size}, in an earlier detection of the image it is not'
    return None


def _mask_size(mask: Any) -> tuple[int, int] | None:
    """Height and width of a compressed RLE; None if it is not one."""
    size, counts = (mask.get('size'), mask.get('counts')) if isinstance(mask, dict) else (None, None)
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int and 0 < side < 2**32 for side in size)):
        return None
    return tuple(size) if isinstance(counts, str) and is_rle(counts, size[0] * size[1]) else None

"""MMDetection's result files: ``<prefix>.bbox.json`` and ``<prefix>.segm.json``, each a list of detections."""

import json
import reprlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from apa_mmdet.datasets.validation.records import is_integer_id, is_number
from apa_mmdet.structures.rle import is_rle
from apa_mmdet.utils.errors import one_line

from .prediction_store import Masks, Prediction, PredictionError, PredictionFiles


@contextmanager
def json_results_writer(
    prefix: str, category_ids: Sequence[int], predictions: PredictionFiles
) -> Iterator[Callable[[Prediction], None]]:
    """Write the predictions that are given to it as MMDetection does; that of masks only if there are some.

    Args:
        prefix: of the files.
        category_ids: of label 0, 1, ….
        predictions: the files that the masks are read from.
    """
    Path(prefix).parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        files = stack.enter_context(predictions.open())
        write = dict(bbox=stack.enter_context(_json_list(f'{prefix}.bbox.json')))

        def add(prediction: Prediction) -> None:
            masks, mask_scores = prediction.masks, prediction.mask_scores
            if masks and 'segm' not in write:
                write['segm'] = stack.enter_context(_json_list(f'{prefix}.segm.json'))
            corners = prediction.boxes.astype(np.float64)
            boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()
            for i, (box, score, label) in enumerate(zip(boxes, prediction.scores.tolist(), prediction.labels.tolist())):
                record = dict(image_id=prediction.image_id, bbox=box, score=score, category_id=category_ids[label])
                write['bbox'](record)
                if masks:
                    files[prediction.file].seek(masks.offsets[i])
                    counts = files[prediction.file].read(masks.lengths[i]).decode()
                    score = score if mask_scores is None else float(mask_scores[i])
                    write['segm'](dict(record, score=score, segmentation=dict(size=list(masks.size), counts=counts)))

        yield add


@contextmanager
def _json_list(path: str) -> Iterator[Callable[[dict], None]]:
    """Write a list of records to a file, one by one."""
    separator = '['
    with open(path, 'w', encoding='utf-8') as file:

        def append(record: dict) -> None:
            nonlocal separator
            file.write(separator + json.dumps(record))
            separator = ', '

        yield append
        file.write(']' if separator == ', ' else '[]')


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
        raise PredictionError('not-json', f'{path} is not JSON, or was cut off: {one_line(error)}') from None
    if not isinstance(detections, list):
        raise PredictionError('not-json', f'{path} is not a list of detections')
    label_of = {number: label for label, number in enumerate(category_ids)}
    by_image: dict[int, list[dict]] = {}
    for i, detection in enumerate(detections):
        if fault := _fault(detection, label_of, by_image):
            raise PredictionError('bad-record', f'{path}: detections[{i}]: {fault}')
        by_image.setdefault(detection['image_id'], []).append(detection)
    del detections
    for image_id, of_image in by_image.items():
        yield _from_json(image_id, of_image, label_of)


def _fault(detection: Any, label_of: dict[int, int], by_image: dict[int, list[dict]]) -> str | None:
    """What is wrong with a record; ``by_image``: the earlier ones."""
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
    first = next(iter(by_image.get(image_id, ())), detection).get('segmentation')
    if size != (tuple(first['size']) if first else None):
        return f'image {image_id}: segmentation is of size {size}, in an earlier detection of the image it is not'
    return None


def _mask_size(mask: Any) -> tuple[int, int] | None:
    """Height and width of a compressed RLE; None if it is not one."""
    size, counts = (mask.get('size'), mask.get('counts')) if isinstance(mask, dict) else (None, None)
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int and 0 < side < 2**32 for side in size)):
        return None
    if not isinstance(counts, str) or not is_rle(counts, size[0] * size[1]):
        return None
    return tuple(size)


def _from_json(image_id: int, detections: Sequence[dict], label_of: dict[int, int]) -> Prediction:
    boxes = np.array([detection['bbox'] for detection in detections], np.float64)
    boxes[:, 2:] += boxes[:, :2]
    scores = np.array([detection['score'] for detection in detections], np.float64)
    labels = np.array([label_of[detection['category_id']] for detection in detections])
    masks = None
    if detections[0].get('segmentation'):
        rles = [detection['segmentation'] for detection in detections]
        masks = Masks(tuple(rles[0]['size']), [rle['counts'].encode() for rle in rles])
    return Prediction(image_id, boxes, scores, labels, None, masks)

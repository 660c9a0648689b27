"""Time and memory of COCO's evaluation of boxes with V3Det's 13,204 categories: FastCocoMetric and two others.

These are mmdet's CocoMetric and faster-coco-eval.

    python benchmarks/coco_metric.py --images 50 100 --contenders FastCocoMetric CocoMetric faster-coco-eval   # minutes
    python benchmarks/coco_metric.py --images 1000 5000 30000                              # FastCocoMetric only

Annotations and predictions are synthetic: the categories' frequencies fall as 1 / rank, 6 objects an image on average,
of 2 or 3 categories, 1 in 100 a crowd, and 300 detections, half of them of the categories of the image. They are
written image by image and kept in the folder of the results, where a further run finds them. Each contender evaluates
in its own process: ``cpu_seconds`` are those of the evaluating thread from the files of annotations and predictions to
AP, ``seconds`` the same by the clock; ``file_mib`` is the size of the annotation file; ``peak_mib`` is the peak memory
of the process, and of CocoMetric that of its largest child beside it, imports included.
"""

import argparse
import contextlib
import io
import json
import resource
import time
from pathlib import Path

import measure
import memory
import numpy as np
import torch

from apa_mmdet.evaluation.functional.prediction_store import Prediction, PredictionWriter, find_predictions

OURS, STOCK, FASTER = 'FastCocoMetric', 'CocoMetric', 'faster-coco-eval'
CATEGORIES, DETECTIONS, HEIGHT, WIDTH = 13204, 300, 600, 800
OPTIONS = dict(metric='bbox', use_mp_eval=True, proposal_nums=[DETECTIONS])  # V3Det's


def draw_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """x, y, width, height."""
    sides = np.exp(rng.normal(4.3, 1.0, (count, 2))).clip(6, (WIDTH, HEIGHT))
    return np.concatenate([rng.uniform(0, 1, (count, 2)) * ((WIDTH, HEIGHT) - sides), sides], 1).round(2)


def make(images: int, folder: Path) -> None:
    """Write ``gt.json`` and the predictions, in the files of FastCocoMetric."""
    rng = np.random.default_rng(0)
    chance = 1 / np.arange(1, CATEGORIES + 1)
    chance /= chance.sum()
    cumulative = chance.cumsum()
    writer, records, annotations = PredictionWriter(folder), [], []
    for image in range(1, images + 1):
        records.append(dict(id=image, height=HEIGHT, width=WIDTH, file_name=f'{image}.jpg'))
        count = min(60, int(rng.geometric(1 / 6)))
        boxes, present = draw_boxes(rng, count), np.searchsorted(cumulative, rng.random(3))
        labels = rng.choice(present, count)
        for label, box in zip(labels.tolist(), boxes.tolist()):
            record = dict(
                id=len(annotations) + 1, image_id=image, category_id=label + 1, iscrowd=int(rng.random() < 0.01)
            )
            annotations.append(dict(record, bbox=box, area=box[2] * box[3]))
        writer.write(_predict(rng, image, boxes, labels, present, cumulative))
    writer.close()
    categories = [dict(id=i + 1, name=f'category {i}') for i in range(CATEGORIES)]
    (folder / 'gt.json').write_text(json.dumps(dict(images=records, annotations=annotations, categories=categories)))


def _predict(
    rng: np.random.Generator,
    image: int,
    boxes: np.ndarray,
    labels: np.ndarray,
    present: np.ndarray,
    cumulative: np.ndarray,
) -> Prediction:
    """Up to 5 detections an object, in three of four cases with its category; the rest is noise."""
    of = np.where(np.arange(DETECTIONS) < 5 * len(boxes), np.arange(DETECTIONS) % len(boxes), -1)
    near = boxes[of] + rng.normal(0, 0.08, (DETECTIONS, 4)) * np.tile(boxes[of, 2:], 2)
    found = np.where(of[:, None] >= 0, near, draw_boxes(rng, DETECTIONS))
    found[:, 2:] = found[:, :2] + found[:, 2:].clip(1, None)
    anywhere = np.searchsorted(cumulative, rng.random(DETECTIONS))
    noise = np.where(rng.random(DETECTIONS) < 0.3, rng.choice(present, DETECTIONS), anywhere)
    right = (of >= 0) & (rng.random(DETECTIONS) < 0.75)
    scores = np.where(right, rng.beta(2, 3, DETECTIONS), rng.beta(1, 12, DETECTIONS))
    order = np.argsort(-scores)
    return Prediction(image, found[order], scores[order], np.where(right, labels[of], noise)[order])


# Contenders


def ours(folder: Path) -> dict[str, float]:
    from apa_mmdet.evaluation import FastCocoMetric

    return FastCocoMetric(str(folder / 'gt.json'), **OPTIONS).evaluate_files(find_predictions(folder))


def stock(folder: Path) -> dict[str, float]:
    from mmdet.evaluation import CocoMetric

    metric = CocoMetric(str(folder / 'gt.json'), **OPTIONS)
    metric.dataset_meta = dict(classes=tuple(f'category {i}' for i in range(CATEGORIES)))
    predictions = list(find_predictions(folder))
    for prediction in predictions:
        columns = dict(bboxes=prediction.boxes, scores=prediction.scores, labels=prediction.labels)
        found = {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in columns.items()}
        metric.process({}, [dict(img_id=prediction.image_id, ori_shape=(HEIGHT, WIDTH), pred_instances=found)])
    return metric.evaluate(len(predictions))


def faster(folder: Path) -> dict[str, float]:
    from faster_coco_eval import COCO, COCOeval_faster

    truth, rows = COCO(str(folder / 'gt.json')), []
    for image, boxes, scores, labels, *_ in find_predictions(folder):
        sides = boxes[:, 2:] - boxes[:, :2]
        rows.append(np.column_stack([np.full(len(boxes), image), boxes[:, :2], sides, scores, labels + 1]))
    evaluator = COCOeval_faster(truth, truth.loadRes(np.concatenate(rows).astype(float)), 'bbox')
    evaluator.params.maxDets = [1, 10, DETECTIONS]
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return {f'coco/bbox_{name}': evaluator.stats[i] for name, i in (('mAP', 0), ('mAP_50', 1), ('mAP_s', 3))}


CONTENDERS = {OURS: ours, STOCK: stock, FASTER: faster}


def run_contender(name: str, folder: Path) -> dict[str, float]:
    """Returns the figures of a contender; called in a separate process."""
    start, cpu = time.perf_counter(), time.thread_time()
    with contextlib.redirect_stdout(io.StringIO()):
        metrics = CONTENDERS[name](folder)
    seconds = dict(seconds=time.perf_counter() - start, cpu_seconds=time.thread_time() - cpu)
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    row = seconds | dict(peak_mib=memory.process_peak(), child_mib=child)
    return row | {name: metrics[f'coco/bbox_{name}'] for name in ('mAP', 'mAP_50', 'mAP_s')}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = dict(nargs='+', type=measure.at_least(2), default=[1000, 5000])
    parser.add_argument('--images', **sizes, help='default: %(default)s')
    parser.add_argument('--contenders', nargs='+', choices=CONTENDERS, default=[OURS], help='default: %(default)s')
    measure.add_out(parser)
    args = parser.parse_args()
    name = f'coco_metric_{"_".join(map(str, args.images))}.csv'
    columns = 'name images file_mib seconds cpu_seconds peak_mib child_mib mAP note'
    table = measure.Table(args.out / name, measure.environment('cpu'), columns)
    for images in args.images:
        folder = args.out / f'coco_metric_{images}'
        if not (folder / 'gt.json').exists():
            print(f'drawing {images} images', flush=True)
            make(images, folder)
        for contender in args.contenders:
            size = (folder / 'gt.json').stat().st_size / measure.MIB
            row = dict(name=contender, images=images, file_mib=size, note='')
            try:
                row |= measure.in_a_process(run_contender, contender, folder)
            except Exception as error:  # killed for its memory
                row['note'] = measure.reason(error)
            table.add(**row)
    print(f'written: {table.path}', flush=True)


if __name__ == '__main__':
    main()

"""Time and memory of LVIS's evaluation of boxes and masks: FastLVISMetric, lvis and faster-coco-eval.

    python benchmarks/lvis_metric.py --images 1000            # minutes; all three
    python benchmarks/lvis_metric.py --images 5000 19809      # FastLVISMetric only; --contenders adds the others

Annotations and predictions are synthetic: 1,203 categories as frequent as in LVIS v1, 12 annotations per image on
average with polygons of 40 corners, 3 or 4 categories per image, 7 verified to be absent, and 300 detections with box
and mask, two fifths of them of verified categories. They are written image by image and kept in the folder of the
results, where a further run finds them. Each contender evaluates in its own process: ``seconds`` are those from the
files of annotations and predictions to AP, reading and validation included, for each metric separately; ``peak_mib`` is
the peak memory of the process, imports included. FastLVISMetric rounds AP to three digits.
"""

import argparse
import contextlib
import io
import json
import math
import time
from pathlib import Path
from typing import NamedTuple

import measure
import memory
import numpy as np
import pycocotools.mask as mask_utils

from apa_mmdet.evaluation.functional.prediction_store import Masks, Prediction, PredictionWriter, find_predictions

OURS, LVIS_API, FASTER = 'FastLVISMetric', 'lvis', 'faster-coco-eval'
CATEGORIES = measure.ROOT / 'configs/_base_/datasets/lvis_v1_class_frequency.json'
HEIGHT, WIDTH, DETECTIONS, SCENES = 480, 640, 300, 500


# Synthetic data


class Scene(NamedTuple):
    """Outlines of the objects and the detections of an image; images share them, with other categories."""

    polygons: list[np.ndarray]
    boxes: np.ndarray
    masks: list[bytes]
    of: np.ndarray  # object that a detection belongs to, −1 for none


def outline(rng: np.random.Generator, center: np.ndarray, size: np.ndarray, corners: int) -> np.ndarray:
    """A wobbly ellipse, (corners, 2)."""
    angles = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    radius = 1 + 0.15 * np.sin(rng.integers(2, 6) * angles + rng.uniform(0, 6)) + rng.normal(0, 0.02, corners)
    points = center + size / 2 * radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    return points.clip(0, (WIDTH - 1, HEIGHT - 1)).round(2)


def draw_scene(rng: np.random.Generator) -> Scene:
    count = max(1, rng.geometric(1 / 12))
    sizes = np.exp(rng.normal(3.9, 1.0, (count, 1))).clip(6, 400) * np.exp(rng.normal(0, 0.3, (count, 2)))
    centers = rng.uniform(0, (WIDTH, HEIGHT), (count, 2))
    polygons = [outline(rng, c, s, int(rng.integers(16, 65))) for c, s in zip(centers, sizes)]
    of = np.where(np.arange(DETECTIONS) < 5 * count, np.arange(DETECTIONS) % count, -1)
    outlines = []
    for i in of:
        size = sizes[i] * np.exp(rng.normal(0, 0.1, 2)) if i >= 0 else np.exp(rng.normal(3.9, 1.0, 2)).clip(6, 400)
        center = centers[i] + rng.normal(0, 0.08, 2) * size if i >= 0 else rng.uniform(0, (WIDTH, HEIGHT), 2)
        outlines.append(outline(rng, center, size, 24))
    boxes = np.array([[*points.min(0), *points.max(0)] for points in outlines], np.float32)
    masks = mask_utils.frPyObjects([points.ravel().tolist() for points in outlines], HEIGHT, WIDTH)
    return Scene(polygons, boxes, [mask['counts'] for mask in masks], of)


def make(images: int, folder: Path) -> None:
    """Write ``gt.json`` and the predictions, in the files of FastLVISMetric."""
    rng = np.random.default_rng(0)
    categories = json.loads(CATEGORIES.read_text())['categories']
    chance = np.array([category['image_count'] for category in categories], float)
    chance /= chance.sum()
    scenes = [draw_scene(rng) for _ in range(min(images, SCENES))]
    writer = PredictionWriter(folder)
    image_records, annotations = [], []
    for image in range(1, images + 1):
        scene = scenes[image % len(scenes)]
        drawn = rng.choice(len(chance), 11, replace=False, p=chance)
        present, absent = drawn[:4], drawn[4:]
        labels = rng.choice(present, len(scene.polygons))
        record = dict(id=image, height=HEIGHT, width=WIDTH, neg_category_ids=(absent + 1).tolist())
        partly = rng.random() < 0.3
        image_records.append(dict(record, not_exhaustive_category_ids=(present[:partly] + 1).tolist()))
        for label, points in zip(labels.tolist(), scene.polygons):
            (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
            record = dict(id=len(annotations) + 1, image_id=image, category_id=label + 1, iscrowd=0)
            shape = dict(bbox=[x1, y1, x2 - x1, y2 - y1], area=0.78 * (x2 - x1) * (y2 - y1))
            annotations.append(dict(record, **shape, segmentation=[points.ravel().tolist()]))
        writer.write(_predict(rng, image, scene, labels, drawn, chance))
    writer.close()
    ground_truth = dict(images=image_records, annotations=annotations, categories=categories)
    (folder / 'gt.json').write_text(json.dumps(ground_truth))


def _predict(
    rng: np.random.Generator, image: int, scene: Scene, labels: np.ndarray, verified: np.ndarray, chance: np.ndarray
) -> Prediction:
    """Objects are detected with high scores, in three of four cases with their category; the rest is noise."""
    is_verified = rng.random(DETECTIONS) < 0.3
    noise = np.where(is_verified, rng.choice(verified, DETECTIONS), rng.choice(len(chance), DETECTIONS))
    right = (scene.of >= 0) & (rng.random(DETECTIONS) < 0.75)
    scores = np.where(right, rng.beta(2, 3, DETECTIONS), rng.beta(1, 12, DETECTIONS))
    order = np.argsort(-scores)
    predicted = np.where(right, labels[scene.of], noise)[order]
    masks = Masks((HEIGHT, WIDTH), [scene.masks[i] for i in order])
    return Prediction(image, scene.boxes[order], scores[order], predicted, None, masks)


# Contenders: each returns what get_results() of lvis does


def ours(folder: Path, metric: str) -> dict[str, float]:
    metrics = _metric(folder, metric=metric).evaluate_files(find_predictions(folder))
    return {key.split('_')[-1]: value for key, value in metrics.items()}


def lvis_api(folder: Path, metric: str) -> dict[str, float]:
    from lvis import LVIS, LVISEval, LVISResults

    ground_truth = LVIS(str(folder / 'gt.json'))
    evaluation = LVISEval(ground_truth, LVISResults(ground_truth, str(folder / f'mmdet.{metric}.json')), metric)
    evaluation.run()
    return evaluation.get_results()


def faster(folder: Path, metric: str) -> dict[str, float]:
    from faster_coco_eval import COCO, COCOeval_faster

    ground_truth = COCO(str(folder / 'gt.json'))
    detections = ground_truth.loadRes(str(folder / f'mmdet.{metric}.json'))
    evaluation = COCOeval_faster(ground_truth, detections, metric, lvis_style=True)
    evaluation.params.maxDets = [DETECTIONS]
    evaluation.run()
    return dict(zip(('AP', 'APr', 'APc', 'APf'), evaluation.all_stats[[0, -3, -2, -1]]))


CONTENDERS = {OURS: ours, LVIS_API: lvis_api, FASTER: faster}


def _metric(folder: Path, **options):
    from apa_mmdet.evaluation import FastLVISMetric

    return FastLVISMetric(str(folder / 'gt.json'), **options)


def write_json(folder: Path) -> None:
    """Write MMDetection's result files, which the other contenders read."""
    _metric(folder, format_only=True, outfile_prefix=str(folder / 'mmdet')).evaluate_files(find_predictions(folder))


def run_contender(name: str, folder: Path, metric: str) -> dict[str, float]:
    """Returns the figures of a contender; called in a separate process."""
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        metrics = CONTENDERS[name](folder, metric)
    row = dict(seconds=time.perf_counter() - start, peak_mib=memory.process_peak())
    return row | {key: float(metrics[key]) for key in ('AP', 'APr', 'APc', 'APf')}


# Command line


def measure_at(table: measure.Table, images: int, args: argparse.Namespace) -> None:
    folder = args.out / f'lvis_metric_{images}'
    if not (folder / 'gt.json').exists():
        print(f'drawing {images} images', flush=True)
        make(images, folder)
    names = args.contenders or (list(CONTENDERS) if images <= 1000 else [OURS])
    if set(names) - {OURS} and not (folder / 'mmdet.segm.json').exists():
        measure.in_a_process(write_json, folder)
    for name in names:
        for metric in ('bbox', 'segm'):
            row = dict(name=name, images=images, metric=metric, note='')
            try:
                row |= measure.in_a_process(run_contender, name, folder, metric)
            except Exception as error:  # killed for its memory, or not installed
                row['note'] = measure.reason(error)
            table.add(**row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = dict(nargs='+', type=measure.at_least(2), default=[1000, 5000, 19809])
    parser.add_argument('--images', **sizes, help='default: %(default)s')
    text = f'default: all up to 1,000 images, {OURS} beyond'
    parser.add_argument('--contenders', nargs='+', choices=CONTENDERS, help=text)
    measure.add_out(parser)
    args = parser.parse_args()
    name = f'lvis_metric_{"_".join(map(str, args.images))}.csv'
    table = measure.Table(args.out / name, measure.environment('cpu'), 'name images metric seconds peak_mib AP note')
    for images in args.images:
        measure_at(table, images, args)
    print(f'written: {table.path}', flush=True)


if __name__ == '__main__':
    main()

"""Drawn LVIS annotations and predictions for them, and mmdet's metrics to compare with."""

import json

import numpy as np
import torch
from mmdet.evaluation import LVISMetric

from apa_mmdet.evaluation import FastLVISMetric

HEIGHT, WIDTH, CATEGORIES = 90, 120, 6


def draw(seed, images=6, detections=12):
    """Annotations with everything that may matter, of the first 5 of 6 categories, and predictions with ties.

    There are crowds and ignored objects, objects and detections without area, categories verified to be absent or not
    annotated exhaustively, a category without objects, and images without objects or detections.
    """
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(images) * 3 + 7
    image_records = [
        dict(id=number, height=HEIGHT, width=WIDTH, neg_category_ids=_some(rng), not_exhaustive_category_ids=_some(rng))
        for number in numbers.tolist()
    ]
    annotations = []
    for image in image_records:
        for x, y, w, h in _boxes(rng, rng.integers(0, 6)):
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image['id'],
                    category_id=int(rng.integers(1, CATEGORIES)),
                    bbox=[x, y, w, h],
                    area=float(w * h * rng.choice([0, 0.5, 1], p=[0.05, 0.5, 0.45])),
                    segmentation=[[x, y, x + w, y, x + 0.7 * w, y + h, x, y + 0.8 * h]],
                )
            )
            annotations[-1].update({key: 1 for key in ('iscrowd', 'ignore') if rng.random() < 0.15})
    categories = [dict(id=c, name=f'kind {c}', frequency='rcf'[c % 3]) for c in range(1, CATEGORIES + 1)]
    samples = [
        _sample(rng, image['id'], [a for a in annotations if a['image_id'] == image['id']], detections)
        for image in image_records
    ]
    return dict(images=image_records, annotations=annotations, categories=categories), samples


def _some(rng):
    return rng.choice(np.arange(1, CATEGORIES + 1), rng.integers(0, 3), replace=False).tolist()


def _boxes(rng, count):
    """x, y, w, h."""
    shares = np.concatenate([rng.uniform(0, 0.6, (count, 2)), rng.uniform(0.05, 0.6, (count, 2))], 1)
    return (shares * [WIDTH, HEIGHT, WIDTH, HEIGHT]).tolist()


def _sample(rng, image, objects, most):
    """Output of a detector: two thirds of it near an object, mostly of its category."""
    boxes, labels = [], []
    for x, y, w, h in _boxes(rng, rng.integers(0, most + 1)):
        label = int(rng.integers(CATEGORIES))
        if objects and rng.random() < 0.67:
            near = objects[rng.integers(len(objects))]
            x, y, w, h = np.array(near['bbox']) * rng.normal(1, 0.05, 4)
            label = near['category_id'] - 1 if rng.random() < 0.8 else label
        boxes.append([x, y, x + w * (rng.random() > 0.03), y + h])
        labels.append(label)
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    masks = np.zeros((len(boxes), HEIGHT, WIDTH), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int)):
        mask[max(y1, 0) : y2, max(x1, 0) : x2] = True
    return dict(
        img_id=image,
        ori_shape=(HEIGHT, WIDTH),
        pred_instances=dict(
            bboxes=torch.from_numpy(boxes),
            scores=torch.from_numpy(rng.integers(1, 9, len(boxes)) / 8).float(),
            labels=torch.tensor(labels, dtype=torch.long),
            masks=torch.from_numpy(masks),
        ),
    )


def saved(content, folder):
    """Path of an annotation file."""
    path = folder / 'gt.json'
    path.write_text(json.dumps(content))
    return str(path)


def result(metric_type, ann_file, samples, **options):
    """Metrics of a test with batches of two."""
    metric = metric_type(ann_file, **options)
    for start in range(0, len(samples), 2):
        metric.process({}, samples[start : start + 2])
    return metric.evaluate(len(samples))


def same(ours, stock):
    """Asserts that metrics are equal, but for mmdet's -1 of nothing, which is NaN here."""
    assert list(ours) == list(stock)
    stock = {key: value if value != -1 else np.nan for key, value in stock.items()}
    assert np.allclose(list(ours.values()), list(stock.values()), rtol=0, atol=1e-6, equal_nan=True), (ours, stock)
    return True


def both(ann_file, samples, **options):
    """Our metrics, which are equal to mmdet's."""
    ours, stock = (result(cls, ann_file, samples, **options) for cls in (FastLVISMetric, LVISMetric))
    return same(ours, stock) and ours

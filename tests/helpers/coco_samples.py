"""Drawn COCO annotations and predictions for them, and mmdet's evaluators to compare with."""

import contextlib
import io

import numpy as np
from mmdet.datasets.api_wrappers import COCO, COCOeval, COCOevalMP

from . import lvis_samples

CLASSES = tuple(f'kind {number}' for number in range(1, lvis_samples.CATEGORIES + 1))


def draw(seed, images=6, detections=30):
    """As the drawn LVIS data, with all sizes of COCO, crowds also of many objects, and categories not by their ids."""
    content, samples = lvis_samples.draw(seed, images, detections)
    rng = np.random.default_rng(seed)
    for annotation in content['annotations']:
        annotation.setdefault('iscrowd', 0)
        annotation['area'] *= rng.choice([0.3, 1, 10])
    content['categories'] = [content['categories'][i] for i in rng.permutation(len(content['categories']))]
    names = [category['name'] for category in content['categories']]
    for sample in samples:  # labels follow the file
        labels = sample['pred_instances']['labels']
        labels[:] = labels.new_tensor([names.index(CLASSES[label]) for label in labels.tolist()])
    return content, samples


def result(metric_type, ann_file, samples, classes=CLASSES, **options):
    """Metrics of a test with batches of two."""
    metric = metric_type(ann_file, **options)
    metric.dataset_meta = dict(classes=classes)
    for start in range(0, len(samples), 2):
        metric.process({}, samples[start : start + 2])
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        return metric.evaluate(len(samples))


class _InOneProcess(COCOevalMP):
    """Does what each of mmdet's eight processes does, for all categories: they take a second to start."""

    def evaluate(self):
        p = self.params
        p.imgIds, p.maxDets = list(np.unique(p.imgIds)), sorted(p.maxDets)
        p.catIds = list(np.unique(p.catIds)) if p.useCats else p.catIds
        self.evalImgs, self._paramsEval = self._evaluateImg(p.catIds if p.useCats else [-1]), p


def stock_statistics(ann_file, detections, iou_type, use_mp_eval, **params):
    """The statistics of the evaluator that mmdet's metric takes, before they are rounded."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        truth = COCO(ann_file)
        found = truth.loadRes([{k: v for k, v in d.items() if k != 'bbox' or iou_type == 'bbox'} for d in detections])
        evaluation = (_InOneProcess if use_mp_eval else COCOeval)(truth, found, iou_type)
        vars(evaluation.params).update(params)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats

"""All statistics of COCO equal those of pycocotools and of mmdet's evaluator, before they are rounded."""

import json

import numpy as np
import pytest
import torch
from helpers.coco_samples import draw, result, stock_statistics
from helpers.lvis_samples import HEIGHT, WIDTH, saved

from apa_mmdet.evaluation import FastCocoMetric
from apa_mmdet.evaluation.functional import coco_matching
from apa_mmdet.evaluation.functional.coco_eval import evaluate_coco
from apa_mmdet.evaluation.functional.coco_ground_truth import CocoGroundTruth
from apa_mmdet.evaluation.functional.coco_summary import summarize
from apa_mmdet.evaluation.functional.detection_rows import DetectionRows
from apa_mmdet.evaluation.functional.prediction_store import find_predictions

THRESHOLDS = np.linspace(0.5, 0.95, 10)


def differences(folder, seed, limits, thresholds=THRESHOLDS, **options):
    """Of all statistics, for boxes, masks and proposals and both evaluators."""
    content, samples = draw(seed, **options)
    ann_file, prefix = saved(content, folder), str(folder / 'out')
    result(FastCocoMetric, ann_file, samples, metric='segm', format_only=True, outfile_prefix=prefix)
    detections = json.loads((folder / 'out.segm.json').read_text())
    truth, predictions = CocoGroundTruth(ann_file), find_predictions(folder / 'out.predictions')
    rows = DetectionRows(truth, predictions, True, np.arange(len(truth.categories)))
    for prediction in predictions:
        rows.add(prediction)
    params = dict(maxDets=list(limits), iouThrs=thresholds, catIds=truth.get_cat_ids())
    for kind in ('bbox', 'segm', 'proposal'):
        of_classes = kind != 'proposal'
        iou_type = 'segm' if kind == 'segm' else 'bbox'
        averages = evaluate_coco(truth, rows, iou_type, thresholds, limits, of_classes)
        for mp in (False, True):
            stock = stock_statistics(ann_file, detections, iou_type, mp, useCats=int(of_classes), **params)
            yield np.array(list(summarize(averages, mp).values())) - stock


@pytest.mark.parametrize(
    ('seed', 'limits', 'options'),
    [
        (1, (1, 3, 100), {}),
        (2, (100, 2, 4), dict(thresholds=np.array([0.3, 0.5, 0.75]), images=3)),
        (3, (5, 10, 20), dict(detections=0 + 60, images=2)),
    ],
)
def test_statistics_equal_those_of_the_evaluators_of_mmdet(tmp_path, seed, limits, options):
    for difference in differences(tmp_path, seed, limits, **options):
        assert np.abs(difference).max() < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(10, 40))
def test_statistics_equal_on_many_draws(tmp_path, seed):
    rng = np.random.default_rng(seed)
    limits = (100, *rng.integers(1, 30, 2).tolist())
    for difference in differences(tmp_path, seed, limits, detections=int(rng.integers(1, 80))):
        assert np.abs(difference).max() < 1e-9


def test_masks_of_a_class_may_be_many(tmp_path):
    """pycocotools 2.0.11 measures the areas of at most 255 masks at once under NumPy 2."""
    content, samples = draw(4, images=3, detections=0)
    for sample in samples:
        masks = torch.zeros(100, HEIGHT, WIDTH, dtype=torch.bool)
        masks[:, :9, :9] = True
        boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0]]).repeat(100, 1)
        sample['pred_instances'] = dict(
            bboxes=boxes, masks=masks, scores=torch.linspace(0.1, 0.9, 100), labels=torch.zeros(100, dtype=torch.long)
        )
    ann_file = saved(content, tmp_path)
    assert result(FastCocoMetric, ann_file, samples, metric='segm')['coco/segm_mAP'] >= 0


def test_many_detections_are_averaged_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    right = rng.random((10, 50)) < 0.3
    counted = right | (rng.random((10, 50)) < 0.8)
    whole = coco_matching.average_over_recall(right, counted, 20)
    monkeypatch.setattr(coco_matching, 'CHUNK', 120)
    for of_parts, of_all in zip(coco_matching.average_over_recall(right, counted, 20), whole):
        assert (of_parts == of_all).all() and of_all.min() > 0

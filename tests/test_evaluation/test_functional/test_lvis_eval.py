"""The same numbers as lvis 0.5.3 and mmdet's metrics."""

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from helpers.lvis_samples import HEIGHT, WIDTH, both, draw, result, same, saved
from lvis import LVIS, LVISEval, LVISResults
from mmdet.evaluation import LVISMetric
from mmdet.evaluation.metrics.lvis_metric import LVISFixedAPMetric

from apa_mmdet.evaluation import FastLVISMetric
from apa_mmdet.evaluation.functional.lvis_detections import LVISDetections
from apa_mmdet.evaluation.functional.lvis_eval import FastLVISEval, GroundTruth
from apa_mmdet.evaluation.functional.prediction_store import PredictionError, find_predictions
from apa_mmdet.evaluation.metrics.streamed_metric import EvaluationError


def evaluation_of(ground_truth, predictions, iou_type):
    detections = LVISDetections(ground_truth, predictions, masks=iou_type == 'segm')
    for prediction in predictions:
        detections.add(prediction)
    return FastLVISEval(detections, iou_type)


@pytest.mark.parametrize('seed, options', [*((seed, {}) for seed in range(12)), (20, dict(images=2, detections=420))])
def test_precision_and_recall_equal_those_of_lvis(seed, options, tmp_path):
    content, samples = draw(seed, **options)
    ann_file = saved(content, tmp_path)
    result(FastLVISMetric, ann_file, samples, format_only=True, outfile_prefix=str(tmp_path / 'out'))
    for kind in ('bbox', 'segm'):
        theirs = LVISEval(LVIS(ann_file), LVISResults(ann_file, str(tmp_path / f'out.{kind}.json')), kind)
        ours = evaluation_of(GroundTruth(ann_file), find_predictions(tmp_path / 'out.predictions'), kind)
        for evaluation in (ours, theirs):
            evaluation.run()
        assert list(ours.get_results()) == list(theirs.get_results())
        for figure in ('precision', 'recall'):
            assert np.abs(ours.eval[figure] - theirs.eval[figure]).max() < 1e-9, (kind, figure)
        assert np.allclose(list(ours.get_results().values()), list(theirs.get_results().values()), rtol=0, atol=1e-9)


def test_mask_scores_rank_the_masks(tmp_path):
    content, samples = draw(2)
    for sample in samples:
        sample['pred_instances']['mask_scores'] = 1 - sample['pred_instances']['scores'] / 2
    both(saved(content, tmp_path), samples, metric=['bbox', 'segm'])


def test_category_ids_may_be_in_any_order(tmp_path):
    content, samples = draw(3)
    content['categories'].reverse()  # labels follow the file
    both(saved(content, tmp_path), samples, metric=['bbox', 'segm'])


def test_ap_is_nan_without_objects(tmp_path):
    content, samples = draw(4)
    content['annotations'].clear()
    found = both(saved(content, tmp_path), samples, metric=['bbox', 'segm'])
    assert np.isnan(list(found.values())).all()


@pytest.mark.parametrize('topk', [1, 7, 10000])
def test_fixed_ap_equals_that_of_mmdet(topk, tmp_path):
    content, samples = draw(7, images=5, detections=100)
    ann_file = saved(content, tmp_path)
    stock = result(LVISFixedAPMetric, ann_file, samples, topk=topk)
    ours = result(FastLVISMetric, ann_file, samples, topk=topk)
    assert {key.split('_')[-1]: value for key, value in ours.items()} == pytest.approx(
        {key.split('/')[-1]: np.nan if value == -1 else value for key, value in stock.items()},
        abs=5.001e-4,
        nan_ok=True,
    )  # ours rounds as LVISMetric does


def test_fixed_ap_counts_every_detection_of_an_image(tmp_path):
    """The only correct detection is the 301st best of its image."""
    image = dict(id=1, height=HEIGHT, width=WIDTH, neg_category_ids=[], not_exhaustive_category_ids=[])
    content = dict(
        images=[image],
        annotations=[dict(id=1, image_id=1, category_id=2, bbox=[0, 0, 10, 10], area=100)],
        categories=[dict(id=c, name=str(c), frequency='f') for c in (1, 2)],
    )
    found = dict(
        bboxes=torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(301, 1),
        labels=torch.tensor([0] * 300 + [1]),
        scores=torch.tensor([0.9] * 300 + [0.1]),
    )
    samples, ann_file = [dict(img_id=1, pred_instances=found)], saved(content, tmp_path)
    assert result(FastLVISMetric, ann_file, samples)['lvis/bbox_AP'] == 0
    assert result(FastLVISMetric, ann_file, samples, topk=10000)['lvis/bbox_AP'] == 1


@pytest.mark.parametrize('encoding', ['runs', 'text'])
def test_annotations_may_be_rle(encoding, tmp_path):
    content, samples = draw(2)
    before = saved(content, tmp_path)
    wanted = result(LVISMetric, before, samples, metric='segm')
    for annotation in content['annotations']:
        mask = LVIS(before).ann_to_mask(annotation)
        edges = np.flatnonzero(np.diff(mask.ravel('F'), prepend=0, append=2))
        runs = np.diff(edges, prepend=0).tolist()
        text = mask_utils.encode(np.asfortranarray(mask))['counts'].decode()
        annotation['segmentation'] = dict(size=[HEIGHT, WIDTH], counts=runs if encoding == 'runs' else text)
    assert same(result(FastLVISMetric, saved(content, tmp_path), samples, metric='segm'), wanted)


def test_image_ids_may_be_negative(tmp_path):
    content, samples = draw(3)
    for thing in (*content['images'], *content['annotations'], *samples):
        key = next(key for key in ('img_id', 'image_id', 'id') if key in thing)
        thing[key] = 10 - thing[key]
    both(saved(content, tmp_path), samples, metric=['bbox', 'segm'])


def test_proposal_recall_equals_that_of_mmdet(tmp_path):
    """mmdet's fails on images that differ in their number of objects or proposals: images are compared one by one."""
    content, samples = draw(14)
    options = dict(metric=['proposal_fast'], proposal_nums=(1, 5), iou_thrs=[0.5, 0.9])
    alone, objects = [], []
    for image, sample in zip(content['images'], samples):
        of_image = [a for a in content['annotations'] if a['image_id'] == image['id']]
        if of_image:
            ann_file = saved(dict(content, images=[image], annotations=of_image), tmp_path)
            alone.append(both(ann_file, [sample], **options))
            objects.append(len(of_image))
    together = result(FastLVISMetric, saved(content, tmp_path), samples, **options)
    assert len(set(objects)) > 1 and 0 < together['lvis/AR@1'] < together['lvis/AR@5']
    for key, value in together.items():
        assert value == pytest.approx(np.average([found[key] for found in alone], weights=objects))


def test_masks_of_another_size_than_annotated_are_logged(tmp_path, run_folder):
    content, samples = draw(6)
    for image in content['images'][:2]:
        image['height'] += 1
    both(saved(content, tmp_path), samples, metric='segm')
    wrong = sum(len(sample['pred_instances']['labels']) > 0 for sample in samples[:2])
    assert f'the predicted masks of {wrong} images, e.g. ' in (run_folder / 'run.log').read_text()


@pytest.mark.parametrize(
    'change, code, sentence',
    [
        (
            dict(labels=torch.tensor([6])),
            'unknown-label',
            'image 7: label 6 was predicted, but the annotations have 6 categories',
        ),
        (dict(img_id=1), 'unknown-image', 'image 1 was tested, but is not in the annotations'),
        (dict(masks=None), 'missing-masks', "image 7: its prediction has no masks, which metric 'segm' compares"),
        (dict(scores=torch.tensor([float('nan')])), 'not-finite', 'image 7: scores of its prediction are not finite'),
    ],
)
def test_predictions_that_do_not_belong_to_the_annotations_are_refused(change, code, sentence, tmp_path):
    found = dict(
        bboxes=torch.tensor([[0.0, 0.0, 9.0, 9.0]]),
        scores=torch.tensor([0.5]),
        labels=torch.tensor([0]),
        masks=torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool),
    )
    found = {key: value for key, value in dict(found, **change).items() if key != 'img_id' and value is not None}
    sample = dict(img_id=change.get('img_id', 7), pred_instances=found)
    errors = EvaluationError, PredictionError
    with pytest.raises(errors, match=sentence, check=lambda error: error.code == code):
        result(FastLVISMetric, saved(draw(0)[0], tmp_path), [sample], metric='segm')

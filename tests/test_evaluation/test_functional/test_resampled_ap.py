"""Weights of images give the average precision of a data set with so many copies of each."""

import numpy as np
import pytest
import torch
from helpers import coco_samples, lvis_samples

from apa_mmdet.evaluation import FastCocoMetric, FastLVISMetric
from apa_mmdet.evaluation.functional.coco_eval import evaluate_coco
from apa_mmdet.evaluation.functional.coco_summary import categories_at_map, summarize
from apa_mmdet.evaluation.functional.lvis_eval import FastLVISEval
from apa_mmdet.evaluation.functional.prediction_store import find_predictions
from apa_mmdet.evaluation.functional.resampled_ap import draw_images

COPIES = 1000  # ids of the copies of an image differ by multiples of it


def drawn(helper, seed, ties, **options):
    content, samples = helper.draw(seed, **options)
    rng = np.random.default_rng(seed)
    for sample in () if ties else samples:
        scores = sample['pred_instances']['scores']
        scores.copy_(torch.from_numpy(rng.permutation(len(scores)) / 100 + sample['img_id'] * 1e-4))
    return content, samples


def copied(content, samples, counts):
    """The data with each image, in the order of the ids, as often as ``counts`` says."""
    numbers = sorted(image['id'] for image in content['images'])
    copies = {number: [number + COPIES * i for i in range(count)] for number, count in zip(numbers, counts)}
    images = [dict(image, id=i) for image in content['images'] for i in copies[image['id']]]
    annotations = [dict(a, image_id=i) for a in content['annotations'] for i in copies[a['image_id']]]
    for number, annotation in enumerate(annotations, 1):
        annotation['id'] = number
    samples = [dict(sample, img_id=i) for sample in samples for i in copies[sample['img_id']]]
    return dict(content, images=images, annotations=annotations), samples


def predicted(metric_type, content, samples, folder, **options):
    """A metric and the predictions of a test; its ordinary results are on average precisions to 15 digits."""
    folder.mkdir()
    metric = metric_type(lvis_samples.saved(content, folder), metric=['bbox', 'segm'], **options)
    metric.outfile_prefix, metric.dataset_meta = str(folder / 'out'), dict(classes=coco_samples.CLASSES)
    metric.process({}, samples)
    metric._open.close()
    return metric, find_predictions(folder / 'out.predictions')


def collected(metric, predictions):
    metric._ground_truth = metric.load_ground_truth()
    detections, _ = metric._collectors(predictions)
    for prediction in predictions:
        detections.add(prediction)
    return detections


def precisions_of_lvis(metric, predictions):
    detections, found = collected(metric, predictions), {}
    for kind in ('bbox', 'segm'):
        evaluation = FastLVISEval(detections, kind)
        evaluation.run()
        results = evaluation.get_results()
        found.update({f'{kind}_{name}': results[name] for name in ('AP', 'APr', 'APc', 'APf')})
    return found


def precisions_of_coco(metric, predictions):
    detections, found = collected(metric, predictions), {}
    for kind in ('bbox', 'segm'):
        limits = metric.proposal_nums
        averages = evaluate_coco(metric._ground_truth, detections, kind, metric.iou_thrs, limits)
        found[f'{kind}_AP'] = summarize(averages, metric.use_mp_eval)['mAP']
        of_class, groups = categories_at_map(averages, metric.use_mp_eval), metric._groups()
        for letter in 'rcf' if metric.frequency_groups else '':
            chosen = of_class[groups[f'AP{letter}'] & ~np.isnan(of_class)]
            found[f'{kind}_AP{letter}'] = chosen.mean() if chosen.size else -1
    return found


def difference(metric, predictions, weights, sample, wanted):
    """The largest between the values of a sample and others, where -1 means nothing to average."""
    values = metric.resample_files(predictions, weights, metric.load_ground_truth()).values
    assert list(values) == list(wanted)
    found = np.array([value[sample] for value in values.values()])
    return np.abs(np.where(np.isnan(found), -1, found) - list(wanted.values())).max()


@pytest.mark.parametrize('seed', range(4))
def test_weights_of_one_give_the_average_precision_of_lvis(seed, tmp_path):
    content, samples = drawn(lvis_samples, seed, ties=True, detections=30)
    metric, predictions = predicted(FastLVISMetric, content, samples, tmp_path / 'once')
    weights = draw_images(len(content['images']), 2, np.random.default_rng(0))
    assert difference(metric, predictions, weights, 0, precisions_of_lvis(metric, predictions)) < 1e-12


@pytest.mark.parametrize('seed', range(4))
def test_weights_equal_copies_of_images_in_lvis(seed, tmp_path):
    content, samples = drawn(lvis_samples, seed, ties=False, detections=30)
    metric, predictions = predicted(FastLVISMetric, content, samples, tmp_path / 'once')
    weights = draw_images(len(content['images']), 3, np.random.default_rng(seed))
    for sample in (1, 3):
        again = copied(content, samples, weights[:, sample])
        wanted = precisions_of_lvis(*predicted(FastLVISMetric, *again, tmp_path / f'copies{sample}'))
        assert max(weights[:, sample]) > 1 and max(wanted.values()) > 0
        assert difference(metric, predictions, weights, sample, wanted) < 1e-9


@pytest.mark.parametrize(
    ('seed', 'options'), [(1, {}), (2, dict(use_mp_eval=True, proposal_nums=[2, 4])), (3, dict(iou_thrs=[0.3, 0.6]))]
)
def test_weights_equal_copies_of_images_in_coco(seed, options, tmp_path):
    content, samples = drawn(coco_samples, seed, ties=False)
    training = dict(ann_file=lvis_samples.saved(content, tmp_path), quantiles=(1 / 3, 2 / 3))
    options = dict(options, frequency_groups=training)
    metric, predictions = predicted(FastCocoMetric, content, samples, tmp_path / 'once', **options)
    weights = draw_images(len(content['images']), 2, np.random.default_rng(seed))
    for sample in range(3):
        again = copied(content, samples, weights[:, sample])
        wanted = precisions_of_coco(*predicted(FastCocoMetric, *again, tmp_path / f'copies{sample}', **options))
        assert len(wanted) == 8 and max(wanted.values()) > 0
        assert difference(metric, predictions, weights, sample, wanted) < 1e-9


def test_samples_are_averaged_in_parts(monkeypatch, tmp_path):
    content, samples = drawn(lvis_samples, 5, ties=True)
    metric, predictions = predicted(FastLVISMetric, content, samples, tmp_path / 'once')
    weights = draw_images(len(content['images']), 7, np.random.default_rng(0))
    whole = metric.resample_files(predictions, weights, metric.load_ground_truth()).values
    monkeypatch.setattr('apa_mmdet.evaluation.functional.resampled_ap.CHUNK', 9)
    parts = metric.resample_files(predictions, weights, metric.load_ground_truth()).values
    assert all(np.array_equal(whole[key], parts[key], equal_nan=True) for key in whole)
    assert whole['segm_AP'].std() > 0

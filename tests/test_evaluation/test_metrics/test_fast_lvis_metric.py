"""The same numbers as mmdet's LVISMetric and lvis 0.5.3, from files, in any number of processes, and after a crash."""

import json
import os
import runpy
import shutil
import signal
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from helpers.paths import ROOT
from helpers.processes import in_two_processes
from lvis import LVIS, LVISEval, LVISResults
from mmdet.evaluation import LVISMetric
from mmdet.evaluation.metrics.lvis_metric import LVISFixedAPMetric
from mmengine.logging import MMLogger

from apa_mmdet.apis.offline_eval import eval_results
from apa_mmdet.datasets.validation.findings import ValidationError
from apa_mmdet.evaluation import FastLVISMetric
from apa_mmdet.evaluation.functional.lvis_eval import FastLVISEval, load_ground_truth
from apa_mmdet.evaluation.functional.prediction_store import files_in

HEIGHT, WIDTH, CATEGORIES = 90, 120, 6
EVERYTHING = ['bbox', 'segm', 'proposal', 'proposal_fast']


@pytest.fixture(autouse=True)
def run_folder(tmp_path):
    """Where the log of the test's own run lies."""
    (tmp_path / 'run').mkdir()
    MMLogger.get_instance(str(tmp_path), log_file=str(tmp_path / 'run/run.log'))
    yield tmp_path / 'run'
    MMLogger._instance_dict.pop(str(tmp_path))


# Data


def draw(seed, images=6, found=12):
    """Annotations with everything that may matter, among the 5 first of 6 categories, and predictions with ties.

    There are crowds and ignored objects, objects and detections without area, categories known to be absent or not
    annotated exhaustively, categories that exist nowhere, images without objects or detections.
    """
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(images) * 3 + 7
    pictures = [
        dict(id=number, height=HEIGHT, width=WIDTH, neg_category_ids=_some(rng), not_exhaustive_category_ids=_some(rng))
        for number in numbers.tolist()
    ]
    annotations = []
    for picture in pictures:
        for x, y, w, h in _boxes(rng, rng.integers(0, 6)):
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=picture['id'],
                    category_id=int(rng.integers(1, CATEGORIES)),
                    bbox=[x, y, w, h],
                    area=float(w * h * rng.choice([0, 0.5, 1], p=[0.05, 0.5, 0.45])),
                    segmentation=[[x, y, x + w, y, x + 0.7 * w, y + h, x, y + 0.8 * h]],
                )
            )
            annotations[-1].update({key: 1 for key in ('iscrowd', 'ignore') if rng.random() < 0.15})
    categories = [dict(id=c, name=f'kind {c}', frequency='rcf'[c % 3]) for c in range(1, CATEGORIES + 1)]
    samples = [
        _sample(rng, picture['id'], [a for a in annotations if a['image_id'] == picture['id']], found)
        for picture in pictures
    ]
    return dict(images=pictures, annotations=annotations, categories=categories), samples


def _some(rng):
    return rng.choice(np.arange(1, CATEGORIES + 1), rng.integers(0, 3), replace=False).tolist()


def _boxes(rng, count):
    """x, y, w, h."""
    shares = np.concatenate([rng.uniform(0, 0.6, (count, 2)), rng.uniform(0.05, 0.6, (count, 2))], 1)
    return (shares * [WIDTH, HEIGHT, WIDTH, HEIGHT]).tolist()


def _sample(rng, image, objects, most):
    """What a detector gives: two thirds near an object, mostly of its category."""
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
    path = folder / 'gt.json'
    path.write_text(json.dumps(content))
    return str(path)


def result(kind, ann_file, samples, **options):
    metric = kind(ann_file, **options)
    for start in range(0, len(samples), 2):
        metric.process({}, samples[start : start + 2])
    return metric.evaluate(len(samples))


def same(ours, stock):
    assert list(ours) == list(stock)
    assert np.allclose(list(ours.values()), list(stock.values()), rtol=0, atol=1e-6, equal_nan=True), (ours, stock)
    return True


def both(ann_file, samples, **options):
    ours, stock = (result(kind, ann_file, samples, **options) for kind in (FastLVISMetric, LVISMetric))
    return same(ours, stock) and ours


# The same numbers


@pytest.mark.parametrize('seed, options', [*((seed, {}) for seed in range(12)), (20, dict(images=2, found=420))])
def test_precision_and_recall_are_those_of_lvis(seed, options, tmp_path):
    content, samples = draw(seed, **options)
    ann_file = saved(content, tmp_path)
    result(FastLVISMetric, ann_file, samples, format_only=True, outfile_prefix=str(tmp_path / 'out'))
    for kind in ('bbox', 'segm'):
        theirs = LVISEval(LVIS(ann_file), LVISResults(ann_file, str(tmp_path / f'out.{kind}.json')), kind)
        ours = FastLVISEval(load_ground_truth(ann_file), files_in(tmp_path / 'out.predictions'), kind)
        for evaluation in (ours, theirs):
            evaluation.run()
        assert list(ours.get_results()) == list(theirs.get_results())
        for figure in ('precision', 'recall'):
            assert np.abs(ours.eval[figure] - theirs.eval[figure]).max() < 1e-9, (kind, figure)
        assert np.allclose(list(ours.get_results().values()), list(theirs.get_results().values()), rtol=0, atol=1e-9)


def test_a_drop_in_for_mmdets(tmp_path):
    content, samples = draw(1)
    ann_file = saved(content, tmp_path)
    found = both(ann_file, samples, metric=['bbox', 'segm', 'proposal'], classwise=True)
    assert 0 < found['lvis/segm_AP'] < 1 and 0 < found['lvis/AR@300'] < 1
    assert np.isnan(found['lvis/kind 6_precision'])  # category without objects
    both(ann_file, samples, metric='bbox', metric_items=['AP', 'AR@300'], prefix='mine')


def test_recall_of_proposals(tmp_path):
    """mmdet's fails on images that differ in their number of objects or proposals: a single one is compared."""
    content, samples = draw(14)
    options = dict(metric=['proposal_fast'], proposal_nums=(1, 5), iou_thrs=[0.5, 0.9])
    alone, objects = [], []
    for picture, sample in zip(content['images'], samples):
        of_image = [a for a in content['annotations'] if a['image_id'] == picture['id']]
        if of_image:
            ann_file = saved(dict(content, images=[picture], annotations=of_image), tmp_path)
            alone.append(both(ann_file, [sample], **options))
            objects.append(len(of_image))
    together = result(FastLVISMetric, saved(content, tmp_path), samples, **options)
    assert len(set(objects)) > 1 and 0 < together['lvis/AR@1'] < together['lvis/AR@5']
    for key, value in together.items():
        assert value == pytest.approx(np.average([found[key] for found in alone], weights=objects))


def test_masks_with_scores_of_their_own(tmp_path):
    content, samples = draw(2)
    for sample in samples:
        sample['pred_instances']['mask_scores'] = 1 - sample['pred_instances']['scores'] / 2
    both(saved(content, tmp_path), samples, metric=['bbox', 'segm'])


def test_category_ids_in_any_order(tmp_path):
    content, samples = draw(3)
    content['categories'].reverse()  # labels follow the file
    both(saved(content, tmp_path), samples, metric=['bbox', 'segm'])


def test_nothing_but_verified_absence(tmp_path):
    content, samples = draw(4)
    content['annotations'].clear()
    assert set(both(saved(content, tmp_path), samples, metric=['bbox', 'segm']).values()) == {-1.0}


def test_nothing_found(tmp_path, run_folder):
    """mmdet's gives no result then."""
    content, samples = draw(5, found=0)
    found = result(FastLVISMetric, saved(content, tmp_path), samples, metric=EVERYTHING)
    assert found['lvis/bbox_AP'] == found['lvis/segm_AP'] == found['lvis/AR@300'] == found['lvis/AR@1000'] == 0
    assert 'nothing was found in any of 6 images: AP is 0' in (run_folder / 'run.log').read_text()


def test_images_that_were_not_tested_count_and_are_told(tmp_path, run_folder):
    content, samples = draw(6)
    both(saved(content, tmp_path), samples[:4])
    assert '2 of the 6 images' in (run_folder / 'run.log').read_text()


@pytest.mark.parametrize('most', [1, 7, 10000])
def test_fixed_ap(most, tmp_path):
    content, samples = draw(7, images=5, found=100)
    ann_file = saved(content, tmp_path)
    stock = result(LVISFixedAPMetric, ann_file, samples, topk=most)
    ours = result(FastLVISMetric, ann_file, samples, max_per_class=most)
    assert {key.split('_')[-1]: value for key, value in ours.items()} == pytest.approx(
        {key.split('/')[-1]: value for key, value in stock.items()}, abs=5.001e-4
    )  # ours rounds as LVISMetric does


def test_fixed_ap_counts_every_detection_of_an_image(tmp_path):
    """An object that is found once, as the 301st best detection of its image."""
    picture = dict(id=1, height=HEIGHT, width=WIDTH, neg_category_ids=[], not_exhaustive_category_ids=[])
    content = dict(
        images=[picture],
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
    assert result(FastLVISMetric, ann_file, samples, max_per_class=10000)['lvis/bbox_AP'] == 1


# Files


def test_the_json_files_are_mmdets(tmp_path):
    content, samples = draw(8)
    ann_file = saved(content, tmp_path)
    for kind, name in ((LVISMetric, 'stock'), (FastLVISMetric, 'ours')):
        prefix = str(tmp_path / name / 'results')
        assert result(kind, ann_file, samples, metric=['bbox', 'segm'], format_only=True, outfile_prefix=prefix) == {}
    for kind in ('bbox', 'segm'):
        ours, stock = (json.loads((tmp_path / name / f'results.{kind}.json').read_text()) for name in ('ours', 'stock'))
        assert ours == stock and ours


def test_files_lie_beside_the_log_and_go(tmp_path, run_folder):
    content, samples = draw(9)
    metric = FastLVISMetric(saved(content, tmp_path))
    metric.process({}, samples)
    (folder,) = [path for path in run_folder.iterdir() if path.is_dir()]
    assert f'Predictions are written to {folder}' in (run_folder / 'run.log').read_text()
    first = metric.evaluate(len(samples))
    assert not folder.exists()
    metric.process({}, samples)  # the next epoch
    assert metric.evaluate(len(samples)) == first and not folder.exists()


def config(tmp_path, ann_file, **options):
    path = tmp_path / 'config.py'
    path.write_text(f'test_evaluator = {dict(options, ann_file=ann_file)!r}\n')
    return str(path)


def test_what_a_failed_evaluation_leaves_is_finished(tmp_path, monkeypatch, capsys):
    content, samples = draw(10)
    wanted = result(FastLVISMetric, saved(content, tmp_path), samples, metric=['bbox', 'segm'])
    ann_file = saved(dict(content, categories=[]), tmp_path)
    said = (
        r'the evaluation failed: ValidationError: .*gt.json: the annotation file has no .*; the predictions are kept, and '
        r'python tools/eval_results.py CONFIG .*/run/predictions_\w+ evaluates them'
    )
    with pytest.raises(RuntimeError, match=said) as error:
        result(FastLVISMetric, ann_file, samples, metric=['bbox', 'segm'])
    folder = str(error.value).split('CONFIG ')[1].split()[0]
    saved(content, tmp_path)
    options = dict(type='FastLVISMetric', metric=['bbox', 'segm'])
    assert eval_results(config(tmp_path, ann_file, **options), folder) == wanted
    monkeypatch.setattr(sys, 'argv', ['eval_results.py', config(tmp_path, ann_file, **options), folder])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / 'tools/eval_results.py'), run_name='__main__')
    assert not ended.value.code and json.loads(capsys.readouterr().out) == wanted


def test_mmdets_files_are_evaluated(tmp_path):
    content, samples = draw(11)
    ann_file = saved(content, tmp_path)
    both_kinds = dict(metric=['bbox', 'segm'])
    wanted = result(FastLVISMetric, ann_file, samples, **both_kinds)
    result(LVISMetric, ann_file, samples, format_only=True, outfile_prefix=str(tmp_path / 'stock'), **both_kinds)
    recipe = config(tmp_path, ann_file, type='LVISMetric', **both_kinds)
    bbox, segm = tmp_path / 'stock.bbox.json', tmp_path / 'stock.segm.json'
    assert {**eval_results(recipe, str(bbox)), **eval_results(recipe, str(segm))} == wanted
    content = json.loads(bbox.read_text())
    bbox.write_text(bbox.read_text()[:-50])
    with pytest.raises(ValueError, match='stock.bbox.json: after image .*: it ends too early or is damaged'):
        eval_results(recipe, str(bbox))
    bbox.write_text(json.dumps(content).replace('}, {', '}, "score": 1, {', 1))
    with pytest.raises(ValueError, match='it is damaged: before a detection stands .*score'):
        eval_results(recipe, str(bbox))
    bbox.write_text(json.dumps([*content, content[0]]))
    with pytest.raises(ValueError, match=r'stock.bbox.json: image \d+: its detections do not stand together'):
        eval_results(recipe, str(bbox))


# Several processes


def evaluate_in_process(rank, folder, ann_file, samples, shared):
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    mine = [samples[i % len(samples)] for i in range(rank, len(samples) + 1, 2)]  # five, filled up as samplers do
    prefix = str(folder / ('all' if shared else f'machine{rank}') / 'results')
    metric = FastLVISMetric(ann_file, metric=EVERYTHING, outfile_prefix=prefix)
    metric.process({}, mine)
    try:
        outcome = metric.evaluate(len(samples))
    except RuntimeError as error:
        outcome = str(error)
    (folder / f'outcome{rank}').write_text(json.dumps(outcome))


def outcomes_of_two_processes(*args):
    in_two_processes(evaluate_in_process, *args)
    return [json.loads((args[0] / f'outcome{rank}').read_text()) for rank in range(2)]


@pytest.mark.parametrize('shared', [True, False])
def test_two_processes_have_the_metrics_of_one(tmp_path, shared):
    content, samples = draw(12, images=5)
    ann_file = saved(content, tmp_path)
    wanted = result(FastLVISMetric, ann_file, samples, metric=EVERYTHING)
    for outcome in outcomes_of_two_processes(tmp_path, ann_file, samples, shared):
        assert outcome == pytest.approx(wanted, abs=1e-12)


def test_every_process_hears_of_a_failure(tmp_path):
    content, samples = draw(13, images=5)
    ann_file = saved(dict(content, categories=[]), tmp_path)
    for outcome in outcomes_of_two_processes(tmp_path, ann_file, samples, True):
        assert 'the evaluation failed' in outcome and 'results.predictions' in outcome


def evaluate_with_a_full_disk(rank, folder, ann_file, samples):
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    metric = FastLVISMetric(ann_file, outfile_prefix=str(folder / f'machine{rank}/results'))
    metric.process({}, samples[rank::2])
    if rank == 0:
        (folder / 'machine0/results.predictions/rank1.part').symlink_to('/dev/full')
    with pytest.raises(RuntimeError, match='while those of process 1 were received.* the predictions are kept'):
        metric.evaluate(len(samples))


def test_every_process_hears_of_a_full_disk(tmp_path):
    content, samples = draw(13)
    in_two_processes(evaluate_with_a_full_disk, tmp_path, saved(content, tmp_path), samples)


# Errors


def test_arguments_that_make_no_sense(tmp_path):
    ann_file = saved(draw(0)[0], tmp_path)
    for error, said, options in (
        (ValueError, 'needs ann_file', dict(ann_file=None)),
        (ValueError, 'at least one', dict(max_per_class=0)),
        (ValueError, 'needs outfile_prefix', dict(format_only=True)),
        (ValueError, 'max_per_class counts others', dict(metric='proposal', max_per_class=10)),
        (FileNotFoundError, 'nowhere.json', dict(ann_file='nowhere.json')),
        (KeyError, 'metric should be one of', dict(metric='mAP')),
    ):
        with pytest.raises(error, match=said):
            FastLVISMetric(**dict(dict(ann_file=ann_file), **options))


@pytest.mark.parametrize(
    'change, said',
    [
        (dict(labels=torch.tensor([6])), 'label 6 was predicted, but the annotations have 6 categories'),
        (dict(img_id=1), 'image 1 was tested, but is not in the annotations'),
        (dict(masks=None), "metric 'segm' compares masks, but the prediction of image 7 has none"),
        (dict(scores=torch.tensor([float('nan')])), 'image 7: scores of its prediction are not finite'),
    ],
)
def test_predictions_that_do_not_belong_to_the_annotations(change, said, tmp_path):
    found = dict(
        bboxes=torch.tensor([[0.0, 0.0, 9.0, 9.0]]),
        scores=torch.tensor([0.5]),
        labels=torch.tensor([0]),
        masks=torch.ones(1, HEIGHT, WIDTH, dtype=torch.bool),
    )
    found = {key: value for key, value in dict(found, **change).items() if key != 'img_id' and value is not None}
    sample = dict(img_id=change.get('img_id', 7), pred_instances=found)
    with pytest.raises((RuntimeError, ValueError), match=said):
        result(FastLVISMetric, saved(draw(0)[0], tmp_path), [sample], metric='segm')


def test_annotations_that_are_not_lvis(tmp_path):
    """Everything that is refused is in tests/test_datasets/test_validation/test_annotations.py."""
    content, _ = draw(1)
    del content['images'][0]['neg_category_ids']
    ann_file = saved(content, tmp_path)
    with pytest.raises(ValidationError, match=f'^{ann_file}: images without "neg_category_ids": 1 of') as error:
        load_ground_truth(ann_file)
    assert (error.value.code, error.value.ids) == ('missing-negatives', (content['images'][0]['id'],))


def test_annotations_without_area_are_counted(tmp_path, run_folder):
    content, samples = draw(1)
    content['annotations'][0].update(area=-1)
    content['annotations'][1].update(area=0)
    others = sum(annotation['area'] == 0 for annotation in content['annotations'][2:])
    both(saved(content, tmp_path), samples, metric=['bbox', 'segm'])
    said = f'{2 + others} of {len(content["annotations"])} annotations have no area and are skipped in AP'
    assert said in (run_folder / 'run.log').read_text()


def test_masks_are_looked_at_where_they_are_compared_and_the_file_is_named(tmp_path):
    content, samples = draw(1)
    content['annotations'][0].pop('segmentation')
    content['annotations'][1]['segmentation'] = []
    ann_file = saved(content, tmp_path)
    both(ann_file, samples, metric='bbox')
    with pytest.raises(RuntimeError, match=r'gt.json: instances without a mask: 2 of .*, e.g. 1, 2; .*; the pred'):
        result(FastLVISMetric, ann_file, samples, metric=['bbox', 'segm'])


@pytest.mark.parametrize('polygon', [[], [9], [9, 9], [9, 9, 50, 50], [9, 9, 50, 50, 9], [9, 9, 50, 9, 50, 50, 9]])
def test_a_further_polygon_may_be_short_or_of_odd_length(polygon, tmp_path):
    content, samples = draw(6)
    for annotation in content['annotations'][::2]:
        annotation['segmentation'].append(polygon)
    assert both(saved(content, tmp_path), samples, metric='segm')['lvis/segm_AP'] > 0


def test_sides_of_images_may_be_floats(tmp_path):
    content, samples = draw(6)
    for image in content['images']:
        image.update(height=float(HEIGHT), width=float(WIDTH))
    assert both(saved(content, tmp_path), samples, metric=['bbox', 'segm'])['lvis/segm_AP'] > 0


def test_masks_of_another_size_than_annotated_are_told(tmp_path, run_folder):
    content, samples = draw(6)
    for image in content['images'][:2]:
        image['height'] += 1
    both(saved(content, tmp_path), samples, metric='segm')
    wrong = sum(len(sample['pred_instances']['labels']) > 0 for sample in samples[:2])
    assert f'{wrong} images, e.g. ' in (run_folder / 'run.log').read_text()


def test_an_image_whose_id_is_no_number(tmp_path):
    content, samples = draw(6)
    with pytest.raises(
        ValueError, match="prediction of image 'a' cannot be written, as where the id of an image is no"
    ):
        result(FastLVISMetric, saved(content, tmp_path), [dict(samples[0], img_id='a')])


@pytest.mark.parametrize('form', ['runs', 'text'])
def test_annotations_may_be_rle(form, tmp_path):
    content, samples = draw(2)
    before = saved(content, tmp_path)
    wanted = result(LVISMetric, before, samples, metric='segm')
    for annotation in content['annotations']:
        mask = LVIS(before).ann_to_mask(annotation)
        edges = np.flatnonzero(np.diff(mask.ravel('F'), prepend=0, append=2))
        runs = np.diff(edges, prepend=0).tolist()
        text = mask_utils.encode(np.asfortranarray(mask))['counts'].decode()
        annotation['segmentation'] = dict(size=[HEIGHT, WIDTH], counts=runs if form == 'runs' else text)
    assert same(result(FastLVISMetric, saved(content, tmp_path), samples, metric='segm'), wanted)


def test_ids_of_images_may_be_negative(tmp_path):
    content, samples = draw(3)
    for thing in (*content['images'], *content['annotations'], *samples):
        key = next(key for key in ('img_id', 'image_id', 'id') if key in thing)
        thing[key] = 10 - thing[key]
    both(saved(content, tmp_path), samples, metric=['bbox', 'segm'])


def test_where_existence_cannot_be_checked(tmp_path):
    FastLVISMetric('http://localhost/gt.json')


@pytest.mark.parametrize(
    'change, said',
    [
        (dict(image_id='7'), "image '7': image_id is not a whole number"),
        (dict(image_id=2**70), 'image .*: image_id is not a whole number of 64 bits'),
        (dict(image_id=99), 'cannot be evaluated: image 99 was tested, but is not in the annotations'),
        (dict(category_id=77), 'category_id 77 of a detection is not in the annotations'),
        (dict(category_id=1.5), 'category_id 1.5 of a detection'),
        *(
            (dict(score=score), 'score of a detection is not 1 finite number$')
            for score in ('x', None, float('nan'), 1e60, [1, 2])
        ),
        *(
            (dict(bbox=box), 'bbox of a detection is not 4 finite numbers$')
            for box in (None, [1, 2, 3], [1, 2, float('nan'), 3], ['1', '2', '3', '4'])
        ),
        *(
            (dict(segmentation=mask), r'image \d+: segmentation of a detection')
            for mask in (
                [[1, 2, 3, 4, 5, 6]],
                dict(size=[HEIGHT, WIDTH]),
                dict(size=[HEIGHT, WIDTH], counts='x'),
                dict(size=[5, 5], counts='0I'),
                dict(size=['5', 5], counts='0I'),
            )
        ),
    ],
)
@pytest.mark.parametrize('place', [0, 1])
def test_json_that_is_damaged_names_file_and_image(place, change, said, tmp_path):
    content, samples = draw(11)
    ann_file = saved(content, tmp_path)
    result(LVISMetric, ann_file, samples, metric='segm', format_only=True, outfile_prefix=str(tmp_path / 'stock'))
    path = tmp_path / 'stock.segm.json'
    detections = json.loads(path.read_text())
    found = [d for d in detections if d['image_id'] == detections[0]['image_id']]
    found = found[:1] if 'image_id' in change else found
    found[place % len(found)].update(change)
    path.write_text(json.dumps(found))
    with pytest.raises(ValueError, match=f'stock.segm.json:? .*{said}'):
        eval_results(config(tmp_path, ann_file, type='mmdet.LVISMetric', metric='segm'), str(path))


# Tests that were interrupted, or are not alone


def test_metrics_of_the_same_second_have_folders_of_their_own(tmp_path):
    content, samples = draw(9)
    ann_file = saved(content, tmp_path)
    metrics = [FastLVISMetric(ann_file) for _ in range(2)]
    found = [
        samples,
        [dict(sample, pred_instances={k: v[:1] for k, v in sample['pred_instances'].items()}) for sample in samples],
    ]
    for batch in zip(*found):
        for metric, sample in zip(metrics, batch):
            metric.process({}, [sample])
    assert [metric.evaluate(len(samples)) for metric in metrics] == [
        result(LVISMetric, ann_file, one_of_both) for one_of_both in found
    ]


def test_an_outfile_prefix_for_each_metric(tmp_path):
    content, samples = draw(9)
    options = dict(ann_file=saved(content, tmp_path), outfile_prefix=str(tmp_path / 'out'))
    first, second = FastLVISMetric(**options), FastLVISMetric(**options)
    first.process({}, samples)
    with pytest.raises(ValueError, match='out.predictions/rank0.predictions is being written .* outfile_prefix of its'):
        second.process({}, samples)
    wanted = first.evaluate(len(samples))
    second.process({}, samples)
    assert second.evaluate(len(samples)) == wanted


def test_a_test_that_was_interrupted_begins_anew(tmp_path):
    content, samples = draw(9)
    metric = FastLVISMetric(saved(content, tmp_path))
    metric.process({}, samples[:2])
    with pytest.raises(ValueError, match='comes a second time'):
        metric.process({}, samples)
    metric.process({}, samples)
    assert metric.evaluate(len(samples)) == result(FastLVISMetric, metric.ann_file, samples)


def test_images_with_and_without_masks(tmp_path):
    content, samples = draw(8)
    samples[1]['pred_instances'].pop('masks')
    prefix = tmp_path / 'out'
    result(FastLVISMetric, saved(content, tmp_path), samples, format_only=True, outfile_prefix=str(prefix))
    images = [
        {found['image_id'] for found in json.loads(Path(f'{prefix}.{kind}.json').read_text())}
        for kind in ('bbox', 'segm')
    ]
    assert images[0] - images[1] == {samples[1]['img_id']}


def killed_in_a_second_test(rank, folder, ann_file, samples):
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    metric = FastLVISMetric(ann_file, outfile_prefix=str(folder / f'machine{rank}/results'))
    metric.process({}, samples[rank::2])
    metric.evaluate(len(samples))
    metric.process({}, samples[rank:4:2])
    metric._open.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_test_leaves_is_evaluated(tmp_path):
    """Two processes on machines of their own; the one of rank 0 still has a file of the test before."""
    content, samples = draw(12)
    ann_file = saved(content, tmp_path)
    in_two_processes(killed_in_a_second_test, tmp_path, ann_file, samples, exitcode=-signal.SIGKILL)
    recipe = config(tmp_path, ann_file, type='FastLVISMetric')
    folders = [tmp_path / f'machine{rank}/results.predictions' for rank in range(2)]
    with pytest.raises(ValueError, match='rank1.predictions belongs to another test'):
        eval_results(recipe, str(folders[0]))
    (folders[0] / 'rank1.predictions').unlink()
    with pytest.raises(FileNotFoundError, match='rank1.predictions is missing; .* machine of process 1'):
        eval_results(recipe, str(folders[0]))
    shutil.copy(folders[1] / 'rank1.predictions', folders[0])
    assert same(eval_results(recipe, str(folders[0])), result(LVISMetric, ann_file, samples[:4]))


def test_memory_stays_flat_while_testing(tmp_path):
    """Of an image its id is kept; its predictions go to the disk."""
    content, samples = draw(5, images=1)
    found = dict(
        bboxes=torch.ones(10, 4),
        scores=torch.ones(10),
        labels=torch.ones(10, dtype=torch.long),
        masks=[dict(size=(HEIGHT, WIDTH), counts=b'x' * 500)] * 10,
    )
    metric, kept, written = FastLVISMetric(saved(content, tmp_path)), [], []
    tracemalloc.start()
    try:
        for start, stop in ((0, 300), (300, 3000)):
            for image in range(start, stop):
                metric.process({}, [dict(img_id=image, pred_instances=found)])
            metric._open.flush()
            kept.append(tracemalloc.get_traced_memory()[0])
            written.append(metric._open.path.stat().st_size)
    finally:
        tracemalloc.stop()
    assert written[1] - written[0] > 10e6 and kept[1] - kept[0] < (written[1] - written[0]) / 30, (kept, written)


def test_proposal_recall_does_not_hold_the_file(tmp_path):
    content, samples = draw(5, images=100, found=0)
    found = dict(
        bboxes=torch.ones(10, 4),
        scores=torch.ones(10),
        labels=torch.ones(10, dtype=torch.long),
        masks=[dict(size=(HEIGHT, WIDTH), counts=b'x' * 10000)] * 10,
    )
    metric = FastLVISMetric(saved(content, tmp_path), metric='proposal_fast')
    metric.process({}, [dict(sample, pred_instances=found) for sample in samples])
    metric._open.flush()
    size = metric._open.path.stat().st_size
    tracemalloc.start()
    metric.evaluate(len(samples))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size / 5

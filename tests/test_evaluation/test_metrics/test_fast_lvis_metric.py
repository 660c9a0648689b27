"""FastLVISMetric as a drop-in for mmdet's LVISMetric, in any number of processes, and after an interruption."""

import json
import tracemalloc
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.disk import files_no_larger_than, names
from helpers.lvis_samples import HEIGHT, WIDTH, both, draw, result, same, saved
from helpers.processes import in_two_processes
from mmdet.evaluation import LVISMetric
from mmengine.logging import MMLogger

from apa_mmdet.evaluation import FastLVISMetric
from apa_mmdet.evaluation.functional.lvis_eval import GroundTruth
from apa_mmdet.evaluation.functional.prediction_store import PredictionError
from apa_mmdet.evaluation.metrics.streamed_metric import EvaluationError
from apa_mmdet.utils.findings import ValidationError

EVERYTHING = ['bbox', 'segm', 'proposal', 'proposal_fast']


def test_metrics_equal_those_of_mmdet(tmp_path):
    content, samples = draw(1)
    ann_file = saved(content, tmp_path)
    found = both(ann_file, samples, metric=['bbox', 'segm', 'proposal'], classwise=True)
    assert 0 < found['lvis/segm_AP'] < 1 and 0 < found['lvis/AR@300'] < 1
    assert np.isnan(found['lvis/kind 6_precision'])  # category without objects
    both(ann_file, samples, metric='bbox', metric_items=['AP', 'AR@300'], prefix='mine')


def test_a_frequency_group_without_classes_is_nan(tmp_path):
    content, samples = draw(1)
    for category in content['categories']:
        category['frequency'] = 'f'
    found = both(saved(content, tmp_path), samples, metric=['bbox'])
    assert np.isnan([found['lvis/bbox_APr'], found['lvis/bbox_APc']]).all()
    assert found['lvis/bbox_APf'] == found['lvis/bbox_AP'] > 0


def test_ap_is_zero_without_detections(tmp_path, run_folder):
    """mmdet's metric has no result then."""
    content, samples = draw(5, detections=0)
    found = result(FastLVISMetric, saved(content, tmp_path), samples, metric=EVERYTHING)
    assert found['lvis/bbox_AP'] == found['lvis/segm_AP'] == found['lvis/AR@300'] == found['lvis/AR@1000'] == 0
    assert 'there are no detections in any of 6 images: AP is 0' in (run_folder / 'run.log').read_text()


def test_untested_images_count_and_are_logged(tmp_path, run_folder):
    content, samples = draw(6)
    both(saved(content, tmp_path), samples[:4])
    assert '2 of the 6 images of ' in (run_folder / 'run.log').read_text()


def test_images_with_more_objects_than_lvis_counts_are_logged(tmp_path, run_folder):
    content, samples = draw(1)
    first = content['annotations'][0]
    content['annotations'] += [dict(first, id=number) for number in range(1000, 1301)]
    ann_file = saved(content, tmp_path)
    both(ann_file, samples, metric='bbox')
    result(FastLVISMetric, ann_file, samples, metric=['bbox', 'segm'], topk=10000)
    result(FastLVISMetric, ann_file, samples, metric='proposal_fast')
    log = (run_folder / 'run.log').read_text()
    most = sum(annotation['image_id'] == first['image_id'] for annotation in content['annotations'])
    assert log.count(f'1 images have more than 300 objects, at most {most}; AP counts') == 1 == log.count('topk=10000')


# Files


def test_json_files_equal_those_of_mmdet(tmp_path):
    content, samples = draw(8)
    ann_file = saved(content, tmp_path)
    for kind, name in ((LVISMetric, 'stock'), (FastLVISMetric, 'ours')):
        prefix = str(tmp_path / name / 'results')
        assert result(kind, ann_file, samples, metric=['bbox', 'segm'], format_only=True, outfile_prefix=prefix) == {}
    for kind in ('bbox', 'segm'):
        ours, stock = (json.loads((tmp_path / name / f'results.{kind}.json').read_text()) for name in ('ours', 'stock'))
        assert ours == stock and ours


@pytest.mark.parametrize('annotations', [{}, dict(annotations=[])], ids=['no key', 'empty'])
def test_images_and_categories_are_enough_to_write_json_files(tmp_path, annotations):
    """As in LVIS's files of test images, which have no lists of absent categories either."""
    content, samples = draw(8)
    bare = dict(
        images=[{key: image[key] for key in ('id', 'height', 'width')} for image in content['images']],
        categories=[{key: category[key] for key in ('id', 'name')} for category in content['categories']],
        **annotations,
    )
    for file, name in ((content, 'full'), (bare, 'bare')):
        prefix = str(tmp_path / name)
        assert result(FastLVISMetric, saved(file, tmp_path), samples, format_only=True, outfile_prefix=prefix) == {}
    for kind in ('bbox', 'segm'):
        assert (tmp_path / f'bare.{kind}.json').read_text() == (tmp_path / f'full.{kind}.json').read_text()
    ann_file = saved(dict(bare, categories=[dict(id='a', name='b')]), tmp_path)
    with pytest.raises(EvaluationError, match='gt.json: ids of categories that are not whole numbers') as error:
        result(FastLVISMetric, ann_file, samples, format_only=True, outfile_prefix=str(tmp_path / 'bare'))
    assert error.value.code == 'non-integer-id'


def test_prediction_files_are_beside_the_log_and_removed_after_the_evaluation(tmp_path, run_folder):
    content, samples = draw(9)
    metric = FastLVISMetric(saved(content, tmp_path))
    metric.process({}, samples)
    (folder,) = [path for path in run_folder.iterdir() if path.is_dir()]
    assert f'Predictions are written to {folder}' in (run_folder / 'run.log').read_text()
    first = metric.evaluate(len(samples))
    assert not folder.exists()
    metric.process({}, samples)  # the next epoch
    assert metric.evaluate(len(samples)) == first and not folder.exists()


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
    except EvaluationError as error:
        outcome = [error.code, str(error)]
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
        assert outcome == pytest.approx(wanted, abs=1e-12, nan_ok=True)


def test_every_process_raises_if_the_evaluation_fails(tmp_path):
    content, samples = draw(13, images=5)
    ann_file = saved(dict(content, categories=[]), tmp_path)
    for code, line in outcomes_of_two_processes(tmp_path, ann_file, samples, True):
        assert code == 'missing-records' and 'the evaluation failed' in line and 'results.predictions' in line


def evaluate_with_a_full_disk(rank, folder, ann_file, samples):
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    metric = FastLVISMetric(ann_file, outfile_prefix=str(folder / f'machine{rank}/results'))
    metric.process({}, samples[:1] if rank == 0 else samples[1:])
    metric._open.flush()
    full = files_no_larger_than(metric._open.path.stat().st_size) if rank == 0 else nullcontext()
    with full, pytest.raises(EvaluationError, match='the predictions of process 1 were received.* are kept') as error:
        metric.evaluate(len(samples))
    assert error.value.code == 'evaluation-failed'
    assert names(folder / f'machine{rank}/results.predictions') == [f'rank{rank}.predictions']


def test_every_process_raises_if_the_disk_is_full(tmp_path):
    content, samples = draw(13)
    in_two_processes(evaluate_with_a_full_disk, tmp_path, saved(content, tmp_path), samples)


# Errors


def test_the_log_has_the_traceback_of_an_error_that_nobody_foresaw(tmp_path, monkeypatch):
    content, samples = draw(3)
    MMLogger.get_instance(tmp_path.name, log_file=tmp_path / 'log')
    metric = FastLVISMetric(saved(content, tmp_path))
    monkeypatch.setattr(metric, 'evaluate_files', lambda files: {}['a metric'])
    metric.process({}, samples)
    with pytest.raises(EvaluationError, match="the evaluation failed: KeyError: 'a metric'; the predictions are kept"):
        metric.evaluate(len(samples))
    log = (tmp_path / 'log').read_text()
    assert 'the evaluation failed\nTraceback' in log and "lambda files: {}['a metric']" in log


def test_arguments_that_do_not_go_together_are_refused(tmp_path):
    ann_file = saved(draw(0)[0], tmp_path)
    for error, sentence, options in (
        (ValueError, 'needs ann_file', dict(ann_file=None)),
        (ValueError, 'topk is 0; it must be 1 or more', dict(topk=0)),
        (ValueError, 'needs outfile_prefix', dict(format_only=True)),
        (ValueError, 'cannot be combined with topk', dict(metric='proposal', topk=10)),
        (FileNotFoundError, 'nowhere.json', dict(ann_file='nowhere.json')),
        (KeyError, 'metric should be one of', dict(metric='mAP')),
    ):
        with pytest.raises(error, match=sentence):
            FastLVISMetric(**dict(dict(ann_file=ann_file), **options))


def test_annotations_that_are_not_lvis_are_refused(tmp_path):
    """All that is refused is in tests/test_datasets/test_validation/test_annotations.py."""
    content, _ = draw(1)
    del content['images'][0]['neg_category_ids']
    ann_file = saved(content, tmp_path)
    with pytest.raises(ValidationError, match=f'^{ann_file}: images without "neg_category_ids": 1 of') as error:
        GroundTruth(ann_file)
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
    with pytest.raises(EvaluationError, match=r'gt.json: instances without a mask: 2 of .*, e.g. 1, 2; .*; the pred'):
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


def test_ann_file_may_be_on_a_web_server(tmp_path):
    FastLVISMetric('http://localhost/gt.json')


# Interrupted and concurrent tests


def test_metrics_created_in_the_same_second_have_separate_folders(tmp_path):
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
    for metric, one_of_both in zip(metrics, found):
        same(metric.evaluate(len(samples)), result(LVISMetric, ann_file, one_of_both))


def test_two_metrics_cannot_share_an_outfile_prefix_at_once(tmp_path):
    content, samples = draw(9)
    options = dict(ann_file=saved(content, tmp_path), outfile_prefix=str(tmp_path / 'out'))
    first, second = FastLVISMetric(**options), FastLVISMetric(**options)
    first.process({}, samples)
    with pytest.raises(PredictionError, check=lambda error: error.code == 'file-in-use'):
        second.process({}, samples)
    wanted = first.evaluate(len(samples))
    second.process({}, samples)
    assert second.evaluate(len(samples)) == wanted


def test_a_test_starts_again_after_an_interruption(tmp_path):
    content, samples = draw(9)
    metric = FastLVISMetric(saved(content, tmp_path))
    metric.process({}, samples[:2])
    with pytest.raises(PredictionError, check=lambda error: error.code == 'duplicate-image'):
        metric.process({}, samples)
    metric.process({}, samples)
    assert metric.evaluate(len(samples)) == result(FastLVISMetric, metric.ann_file, samples)


def test_json_of_masks_skips_images_without_masks(tmp_path):
    content, samples = draw(8)
    samples[1]['pred_instances'].pop('masks')
    prefix = tmp_path / 'out'
    result(FastLVISMetric, saved(content, tmp_path), samples, format_only=True, outfile_prefix=str(prefix))
    images = [
        {found['image_id'] for found in json.loads(Path(f'{prefix}.{kind}.json').read_text())}
        for kind in ('bbox', 'segm')
    ]
    assert images[0] - images[1] == {samples[1]['img_id']}


def test_memory_stays_flat_while_testing(tmp_path):
    """Only the id of an image is kept; its predictions are on disk."""
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


def test_memory_stays_flat_while_proposals_are_evaluated(tmp_path):
    content, samples = draw(5, images=100, detections=0)
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

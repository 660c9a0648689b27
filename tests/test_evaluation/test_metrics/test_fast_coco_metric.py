"""FastCocoMetric as a drop-in for mmdet's CocoMetric; the AP of rare, common and frequent classes."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
import torch
from helpers.coco_samples import CLASSES, draw, result
from helpers.disk import names
from helpers.lvis_samples import saved
from helpers.processes import in_two_processes
from mmdet.evaluation import CocoMetric

from apa_mmdet.evaluation import FastCocoMetric
from apa_mmdet.evaluation.functional.prediction_store import find_predictions
from apa_mmdet.evaluation.metrics.streamed_metric import EvaluationError
from apa_mmdet.utils.findings import ValidationError

EVERYTHING = ['bbox', 'segm', 'proposal']
V3DET = dict(use_mp_eval=True, proposal_nums=[300])


def both(ann_file, samples, **options):
    """Our metrics, which are equal to mmdet's."""
    ours, stock = (result(cls, ann_file, samples, **options) for cls in (FastCocoMetric, CocoMetric))
    assert list(ours) == list(stock)
    assert np.array_equal(list(ours.values()), list(stock.values()), equal_nan=True), (ours, stock)
    return ours


def test_metrics_equal_those_of_mmdet(tmp_path):
    content, samples = draw(4)
    ann_file = saved(content, tmp_path)
    found = both(ann_file, samples, metric=EVERYTHING)
    assert all(0 < value < 1 for value in found.values())
    items = dict(metric_items=['mAP', 'mAP_s', 'AR@300'], prefix='mine')
    both(ann_file, samples, metric='bbox', **items, proposal_nums=(1, 4, 9))  # mAP is at 100: there is none
    both(ann_file, samples, metric='proposal', **items)


def test_metrics_equal_those_of_mmdet_with_several_processes(tmp_path):
    content, samples = draw(2)
    both(saved(content, tmp_path), samples, metric='bbox', **V3DET)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(3))
def test_all_metrics_equal_with_several_processes(tmp_path, seed):
    content, samples = draw(seed)
    options = dict(use_mp_eval=True, proposal_nums=(1, 5, 100))
    both(saved(content, tmp_path), samples, metric=EVERYTHING, **options)


def test_classes_are_evaluated_by_name(tmp_path):
    """mmdet gives the AP of single classes to other names unless the file lists them by their ids."""
    content, samples = draw(3)
    content['categories'].sort(key=lambda category: category['id'])
    chosen = CLASSES[4:0:-1]
    for sample in samples:
        sample['pred_instances']['labels'] %= len(chosen)
    ann_file = saved(content, tmp_path)
    found = both(ann_file, samples, classes=chosen, metric=['bbox', 'proposal'], classwise=True)
    assert max(found[f'coco/{name}_precision'] for name in chosen) > 0 and 'coco/kind 1_precision' not in found
    content['categories'].reverse()
    reverse = dict(sort_categories=True, metric=['bbox', 'proposal'], classwise=True)
    assert result(FastCocoMetric, saved(content, tmp_path), samples, classes=chosen, **reverse) == found


def test_recall_of_proposals_equals_that_of_mmdet(tmp_path):
    """mmdet's fails where images differ in their number of boxes or of objects that are neither crowds nor ignored."""
    content, samples = draw(4)
    single, kept = Counter(), []
    for annotation in content['annotations']:
        if annotation['iscrowd'] or annotation.get('ignore'):
            kept.append(annotation)
        elif single[annotation['image_id']] < 2:
            single[annotation['image_id']] += 1
            kept.append(annotation)
    content['images'] = [image for image in content['images'] if single[image['id']] == 2]
    numbers = [image['id'] for image in content['images']]
    content['annotations'] = [annotation for annotation in kept if annotation['image_id'] in numbers]
    samples = [sample for sample in samples if sample['img_id'] in numbers]
    for found in [sample['pred_instances'] for sample in samples]:
        rows = torch.arange(20) % len(found['labels'])
        found.update({key: found[key][rows] for key in ('bboxes', 'scores', 'labels')})
        del found['masks']
    ann_file = saved(content, tmp_path)
    for options in ({}, dict(iou_thrs=0.4, proposal_nums=(1, 5))):
        ours, stock = (
            result(cls, ann_file, samples, metric='proposal_fast', **options) for cls in (FastCocoMetric, CocoMetric)
        )
        assert ours == pytest.approx(stock, abs=1e-6) and 0 < next(iter(ours.values())) < 1
    assert len(numbers) > 2 and len(kept) > sum(single.values())


def test_ap_is_zero_without_detections(tmp_path, run_folder):
    """mmdet's metric has no result then."""
    content, samples = draw(5, detections=0)
    found = result(FastCocoMetric, saved(content, tmp_path), samples, metric=EVERYTHING)
    assert found['coco/bbox_mAP'] == found['coco/segm_mAP'] == found['coco/AR@1000'] == 0
    assert 'there are no detections in any of 6 images: AP is 0' in (run_folder / 'run.log').read_text()


def test_without_objects_every_statistic_is_minus_one(tmp_path):
    content, samples = draw(5)
    content['annotations'] = [dict(annotation, iscrowd=1) for annotation in content['annotations']]
    assert set(both(saved(content, tmp_path), samples).values()) == {-1}


def test_an_annotation_with_the_id_0_counts(tmp_path):
    """pycocotools takes a match with it for none."""
    content, samples = draw(6)
    wanted = result(FastCocoMetric, saved(content, tmp_path), samples)
    for number, annotation in enumerate(content['annotations']):
        annotation['id'] = number
    assert result(FastCocoMetric, saved(content, tmp_path), samples) == wanted


def test_files_equal_those_of_mmdet(tmp_path):
    content, samples = draw(8)
    for kind, name in ((CocoMetric, 'stock'), (FastCocoMetric, 'ours')):
        options = dict(format_only=True, outfile_prefix=str(tmp_path / name))
        (tmp_path / name).mkdir()
        assert result(kind, saved(content, tmp_path), samples, **options) == {}
    for kind in ('bbox', 'segm'):
        ours, stock = (json.loads((tmp_path / f'{name}.{kind}.json').read_text()) for name in ('ours', 'stock'))
        assert ours == stock and ours


def test_masks_are_kept_only_to_be_evaluated(tmp_path):
    content, samples = draw(8)
    for metric, kept in (('bbox', False), ('segm', True)):
        prefix = str(tmp_path / metric)
        result(FastCocoMetric, saved(content, tmp_path), samples, metric=metric, outfile_prefix=prefix)
        masks = [prediction.masks for prediction in find_predictions(tmp_path / f'{metric}.predictions')]
        assert all((mask is not None) == kept for mask in masks) and len(masks) == 6


def evaluate_in_process(rank, folder, ann_file, samples):
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    metric = FastCocoMetric(ann_file, metric=EVERYTHING, outfile_prefix=str(folder / f'machine{rank}/out'))
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, [samples[i % len(samples)] for i in range(rank, len(samples) + 1, 2)])
    (folder / f'outcome{rank}').write_text(json.dumps(metric.evaluate(len(samples))))


def test_two_processes_have_the_metrics_of_one(tmp_path):
    content, samples = draw(12, images=5)
    ann_file = saved(content, tmp_path)
    in_two_processes(evaluate_in_process, tmp_path, ann_file, samples)
    for rank in range(2):
        found = json.loads((tmp_path / f'outcome{rank}').read_text())
        assert found == result(FastCocoMetric, ann_file, samples, metric=EVERYTHING)


# Rare, common and frequent classes


def training(images_of, folder):
    """Annotations in which ``kind i`` appears in so many images, twice in each."""
    annotations = [
        dict(id=0, image_id=image, category_id=number, bbox=[0, 0, 9, 9], area=81, iscrowd=0)
        for number, count in images_of.items()
        for image in range(1, count + 1)
        for _ in range(2)
    ]
    content = dict(
        images=[dict(id=i, height=9, width=9, file_name=f'{i}.jpg') for i in range(1, 20)],
        categories=[dict(id=number, name=f'kind {number}') for number in reversed(images_of)],
        annotations=[dict(annotation, id=i) for i, annotation in enumerate(annotations, 1)],
    )
    (folder / 'train.json').write_text(json.dumps(content))
    return str(folder / 'train.json')


def test_ap_by_frequency_is_the_mean_of_the_classes_of_a_group(tmp_path, run_folder):
    content, samples = draw(1)
    ann_file, train = saved(content, tmp_path), training({1: 2, 2: 3, 3: 4, 4: 9, 5: 10, 6: 19}, tmp_path)
    options = dict(metric=['bbox', 'segm'], frequency_groups=dict(ann_file=train, bounds=(3, 8)))
    found = result(FastCocoMetric, ann_file, samples, **options)
    stock = result(CocoMetric, ann_file, samples, metric=['bbox', 'segm'])
    assert {key: found[key] for key in stock} == stock and len(found) == len(stock) + 6
    for kind in ('bbox', 'segm'):
        with (run_folder / f'classes_{kind}.csv').open(newline='') as file:
            rows = {row['class']: row for row in csv.DictReader(file)}
        assert [rows[f'kind {i}']['group'] for i in range(1, 7)] == ['r', 'r', 'c', 'f', 'f', 'f']
        assert (rows['kind 4']['images'], rows['kind 4']['instances'], rows['kind 6']['AP']) == ('9', '18', '')
        for group in 'rcf':
            values = [float(row['AP']) for row in rows.values() if row['group'] == group and row['AP']]
            assert found[f'coco/{kind}_AP{group}'] == pytest.approx(np.mean(values), abs=6e-4)
        assert found[f'coco/{kind}_APr'] > 0


def test_the_table_of_classes_is_replaced_as_a_whole_or_not_at_all(tmp_path, run_folder):
    def rows():
        yield 'kind 1', 'r', 1, 1, 0.5
        raise KeyboardInterrupt

    (run_folder / 'classes_bbox.csv').write_text('old')
    with pytest.raises(KeyboardInterrupt):
        FastCocoMetric(saved(draw(0)[0], tmp_path))._write_classes('bbox', rows())
    assert (run_folder / 'classes_bbox.csv').read_text() == 'old'
    assert names(run_folder) == ['classes_bbox.csv', 'run.log']


def test_a_group_without_classes_is_skipped_and_named_once(tmp_path, run_folder):
    content, samples = draw(1)
    train = training(dict.fromkeys(range(1, 7), 12), tmp_path)
    metric = FastCocoMetric(saved(content, tmp_path), ['bbox', 'segm'], frequency_groups=dict(ann_file=train))
    for _ in range(2):
        metric.process({}, samples)
        found = metric.evaluate(len(samples))
    assert found['coco/bbox_APc'] == found['coco/bbox_mAP'] and not {'coco/bbox_APr', 'coco/segm_APf'} & set(found)
    log = (run_folder / 'run.log').read_text()
    assert log.count('APr is skipped: no rare class has objects in') == log.count('APf is skipped') == 1


def test_a_class_without_training_annotations_is_an_error(tmp_path):
    content, samples = draw(1)
    options = dict(frequency_groups=dict(ann_file=training({1: 5, 2: 6}, tmp_path)))
    with pytest.raises(
        EvaluationError, match='frequency_groups.ann_file: classes that .*train.json lacks: 4 of 6, e.g. kind '
    ):
        result(FastCocoMetric, saved(content, tmp_path), samples, **options)


# Images with more objects of a class than COCO counts


def crowd(counts):
    """Images with so many objects of kind 1 each, beside one of kind 2, all of them detected; kind 3 has no object."""
    content = dict(categories=[dict(id=i, name=f'kind {i}') for i in (1, 2, 3)], images=[], annotations=[])
    samples = []
    for image, count in enumerate(counts, 1):
        boxes = np.array([[10 * (i % 40), 10 * (i // 40), 8, 8] for i in range(count + 1)], float)
        content['images'].append(dict(id=image, height=400, width=400))
        content['annotations'] += [
            dict(id=1000 * image + i, image_id=image, category_id=1 + (i == count), bbox=box, area=64, iscrowd=0)
            for i, box in enumerate(boxes.tolist())
        ]
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.zeros(count + 1, dtype=torch.long)
        labels[-1] = 1
        found = dict(bboxes=torch.tensor(boxes).float(), scores=torch.full((count + 1,), 0.5), labels=labels)
        samples.append(dict(img_id=image, pred_instances=found))
    return content, samples


def test_images_with_more_objects_than_map_counts_are_logged_and_the_named_option_counts_them(tmp_path, run_folder):
    content, samples = crowd([150, 120, 100, 3])
    ann_file = saved(content, tmp_path)
    kinds = [f'kind {i}' for i in (1, 2, 3)]
    train = training({1: 2, 2: 5, 3: 15}, tmp_path)
    groups = dict(classes=kinds, classwise=True, frequency_groups=dict(ann_file=train, bounds=(3, 8)))
    found = result(FastCocoMetric, ann_file, samples, **groups)
    log = (run_folder / 'run.log').read_text()
    assert log.count('WARNING') == log.count('2 images have more than 100 objects of a class, at most 150; ') + 1 == 2
    assert 'set use_mp_eval=True in the metric' in log and 'APf is skipped: no frequent class has objects in' in log
    # as in mmdet mAP counts 100, the rest 1000; ours are what mAP is the mean of
    assert found['coco/bbox_mAP'] < found['coco/bbox_mAP_50'] == found['coco/kind 1_precision'] == 1
    assert found['coco/bbox_APr'] == pytest.approx(2 * found['coco/bbox_mAP'] - 1, abs=0.001)
    with (run_folder / 'classes_bbox.csv').open(newline='') as file:
        of_classes = [row['AP'] for row in csv.DictReader(file)]
    assert float(of_classes[0]) == pytest.approx(found['coco/bbox_APr'], abs=6e-4) and of_classes[1:] == [
        '1.000000',
        '',
    ]
    found = result(FastCocoMetric, ann_file, samples, **groups, use_mp_eval=True)
    assert found['coco/bbox_mAP'] == found['coco/bbox_APr'] == found['coco/bbox_mAP_50'] == 1
    result(FastCocoMetric, ann_file, samples, classes=kinds, metric='proposal')
    assert (run_folder / 'run.log').read_text().count('more than 100 objects') == 1
    result(FastCocoMetric, ann_file, samples, classes=kinds, proposal_nums=(10, 100, 110))
    assert 'set use_mp_eval=True, proposal_nums=(100, 300, 300) in' in (run_folder / 'run.log').read_text()


# Errors


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(ann_file=None), 'FastCocoMetric needs ann_file'),
        (dict(format_only=True), 'needs outfile_prefix'),
        (dict(proposal_nums=[300]), r'proposal_nums is \[300\]; without use_mp_eval it must have 3'),
        (dict(metric_items=['AR@300'], **V3DET), "metric_items has 'AR@300'; with these proposal_nums there are mAP"),
        (dict(metric_items=['APr']), "metric_items has 'APr'"),
        (dict(proposal_nums=(1, 10, 300), frequency_groups=dict(ann_file='a')), 'name 100 among them, or set use_mp'),
        (dict(frequency_groups=dict(bounds=(1, 2))), 'frequency_groups needs ann_file'),
        (dict(frequency_groups=dict(ann_file='a', bound=3)), "frequency_groups has 'bound'"),
        (dict(frequency_groups=dict(ann_file='a', bounds=(9, 3))), r'frequency_groups.bounds is \(9, 3\)'),
        (dict(frequency_groups=dict(ann_file='a', bounds=(1, 3), quantiles=(0, 1))), 'give one of them'),
    ],
)
def test_arguments_that_do_not_fit_are_refused(tmp_path, options, message):
    ann_file = saved(draw(0)[0], tmp_path)
    with pytest.raises(ValueError, match=message):
        FastCocoMetric(**dict(dict(ann_file=ann_file), **options))


def test_a_missing_file_is_refused_at_once():
    with pytest.raises(FileNotFoundError):
        FastCocoMetric('nowhere.json')


def test_a_damaged_file_is_named(tmp_path):
    content, _ = draw(0)
    del content['annotations'][0]['iscrowd']
    metric = FastCocoMetric(saved(content, tmp_path))
    with pytest.raises(ValidationError, match='gt.json') as error:
        metric.load_ground_truth()
    assert error.value.code == 'missing-iscrowd'

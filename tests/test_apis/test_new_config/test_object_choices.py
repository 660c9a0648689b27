"""With many objects in an image, as many detections are kept and counted, and anchors are assigned where there is room."""

import pytest
from helpers.own_data import own_content, write_own_data
from helpers.paths import ROOT
from mmengine.config import Config

from apa_mmdet.apis.new_config import rules
from apa_mmdet.apis.new_config.annotations import Source
from apa_mmdet.apis.new_config.new_config import new_config
from apa_mmdet.apis.new_config.object_choices import choose_for_objects
from apa_mmdet.apis.new_config.schedule_choices import Machine
from apa_mmdet.datasets.annotation_summary import summarize_annotations
from apa_mmdet.evaluation import FastCocoMetric
from apa_mmdet.registry import METRICS
from apa_mmdet.utils.config import build_detector, load_config
from apa_mmdet.utils.findings import Findings

COCO = Config.fromfile(ROOT / 'configs/coco/mask_rcnn_se_r50_apa_1x_coco.py').model


def chosen(most, val_most=None, dataset='CocoDataset', size=(1333, 800), classes=3, device='gpu', memory=24):
    summary = summarize_annotations(own_content(size=size), Findings('own'))
    sources = [
        Source('own.json', 'images', summary._replace(most_objects=number, dataset=dataset))
        for number in (most, val_most or most)
    ]
    return choose_for_objects(COCO, *sources, Machine(device, 1, memory, 8), 800, classes)


def test_twice_as_many_detections_as_objects_are_kept_and_counted():
    few = chosen(50)
    assert not few.model and not few.metric and few.reserved == 0 and not few.reasons + few.metric_reasons
    some = chosen(90)
    assert some.model['test_cfg'] == dict(rpn=dict(nms_pre=1000, max_per_img=1000), rcnn=dict(max_per_img=180))
    assert not some.metric
    many = chosen(900)
    assert many.model['test_cfg']['rcnn']['max_per_img'] == 1800 == many.metric['proposal_nums'][-1]
    assert many.model['test_cfg']['rpn']['max_per_img'] == 3 * 1800 and many.metric['use_mp_eval']
    assert '900 objects: 1800 detections' in many.reasons[0] and '1800 count' in many.metric_reasons[0]
    assert chosen(250).metric == dict(use_mp_eval=True)  # which counts 1000
    assert chosen(9, val_most=250).model == dict(test_cfg=chosen(250).model['test_cfg'])
    assert chosen(250, dataset='LVISV1Dataset').metric == {}
    assert chosen(400, dataset='LVISV1Dataset').metric == dict(topk=10_000)


def test_their_masks_fit_into_memory_and_what_does_not_is_named():
    kept = {
        options: chosen(2500, **dict(options)).model['test_cfg']['rcnn']['max_per_img']
        for options in (
            (('classes', 0),),
            (('size', (4000, 3000)),),
            (('size', (4000, 3000)), ('memory', 80)),
            (('size', (40_000, 3000)),),
        )
    }
    assert list(kept.values()) == [rules.MOST_DETECTIONS, 536, 1788, 300]
    assert 'a quarter of 80 GiB' in chosen(2500, size=(4000, 3000), memory=80).reasons[1]
    assert 'would take long' in chosen(2500, memory=80).reasons[1]


def test_anchors_are_assigned_on_the_gpu_while_they_take_less_than_a_third_of_it():
    assert chosen(500).reserved == pytest.approx(400 * 36 * 266_400 / 2**30, rel=0.01)
    assert 'train_cfg' not in chosen(500).model and 'train_cfg' not in chosen(5000, device='cpu').model
    most = chosen(5000)
    threshold = most.model['train_cfg']['rpn']['assigner']['gpu_assign_thr']
    assert threshold == 806 and most.reserved < 0.3 * 24 and f'{threshold} objects the CPU' in most.reasons[-1]
    assert chosen(1000, memory=80).model.keys() == {'test_cfg'}


def test_a_config_for_many_objects_passes_the_checks_and_takes_smaller_batches(tmp_path):
    content, batches = own_content(images=200, size=(1333, 800)), []
    first = content['annotations'][0]
    for count in (0, 2400):
        content['annotations'] += [dict(first, id=10_000 + i) for i in range(count)]
        train, out = write_own_data(tmp_path, content), tmp_path / f'own{count}.py'
        new_config(train, str(out), val=train, machine=Machine('gpu', 1, 24, 8), boxes=True)
        cfg = load_config(out)
        batches.append(cfg.train_dataloader.batch_size)
    assert batches[0] > batches[1] >= 1
    assert 800 < build_detector(cfg, out).rpn_head.assigner.gpu_assign_thr < 1000
    metric = METRICS.build(cfg.val_evaluator)
    assert isinstance(metric, FastCocoMetric) and metric._limit == cfg.model.test_cfg.rcnn.max_per_img == 3000

"""Box AP equals that of CocoMetric, and no mask is kept."""

import torch
from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric

from apa_mmdet.datasets.tiny_lvis.generate import make_tiny_lvis
from apa_mmdet.evaluation import CocoBoxMetric


def test_box_ap_equals_that_of_coco_metric_without_masks(tmp_path):
    make_tiny_lvis(tmp_path, train=1, val=2, size=64, progress=False, form='coco')
    samples, results, kept = [], [], []
    for image in (1, 2):
        boxes = torch.rand(20, 4) * 30
        boxes[:, 2:] += boxes[:, :2]
        samples.append(
            dict(
                img_id=image,
                ori_shape=(64, 64),
                pred_instances=dict(
                    bboxes=boxes,
                    scores=torch.rand(20),
                    labels=torch.randint(0, 3, (20,)),
                    masks=torch.ones(20, 64, 64, dtype=torch.bool),
                ),
            )
        )
    for metric_type in (CocoBoxMetric, CocoMetric):
        metric = metric_type(ann_file=str(tmp_path / 'annotations/instances_val2017.json'), metric='bbox')
        metric.dataset_meta = CocoDataset.METAINFO
        metric.process({}, samples)
        kept.append(['masks' in prediction for _, prediction in metric.results])
        results.append(metric.evaluate(size=2))
    assert results[0] == results[1] and 'coco/bbox_mAP' in results[0]
    assert kept == [[False, False], [True, True]] and 'masks' in samples[0]['pred_instances']

# Faster R-CNN SE-R50 with AGLU and APA on COCO, 24 epochs.
_base_ = [
    '../_base_/models/faster_rcnn_se_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    '../_base_/schedules/schedule_2x.py',
    '../_base_/default_runtime.py',
]
val_evaluator = dict(type='FastCocoMetric')
test_evaluator = val_evaluator

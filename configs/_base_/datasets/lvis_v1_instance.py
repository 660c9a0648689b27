# MMDetection's LVIS v1, with our metric, and classes found by name: metainfo.classes, or --cfg-options classes=…, may
# be some of them.
_base_ = 'mmdet::_base_/datasets/lvis_v1_instance.py'
train_dataloader = dict(dataset=dict(dataset=dict(type='SelectiveLVISV1Dataset')))
val_dataloader = dict(dataset=dict(type='SelectiveLVISV1Dataset'))
test_dataloader = val_dataloader
val_evaluator = dict(type='FastLVISMetric')
test_evaluator = val_evaluator

# Published on ImageNet-LT: top-1 57.9 (arXiv:2407.08567; not reproduced here).
_base_ = [
    '../_base_/models/se_resnet50_classifier.py',
    '../_base_/datasets/imagenet_lt.py',
    '../_base_/schedules/imagenet_lt_200e.py',
    '../_base_/classification_runtime.py',
]
model = dict(head=dict(type='PredictorClsHead', cls_predictor_cfg=dict(type='CosineLinear')))

# Published on ImageNet-1K: top-1 78.7 (arXiv:2407.08567; not reproduced here).
_base_ = [
    '../_base_/models/se_resnet50_classifier.py',
    '../_base_/datasets/imagenet_1k.py',
    '../_base_/schedules/imagenet_100e.py',
    '../_base_/classification_runtime.py',
]

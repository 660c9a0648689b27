# Cosine classifier with the scale 16.
_base_ = [
    '../_base_/models/se_resnet32_cifar_classifier.py',
    '../_base_/datasets/cifar100_lt.py',
    '../_base_/schedules/cifar100_lt_500e.py',
    '../_base_/classification_runtime.py',
]

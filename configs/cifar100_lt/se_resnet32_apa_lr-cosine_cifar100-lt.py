# Cosine classifier with a learned scale; the rest as se_resnet32_apa_cifar100-lt.py.
_base_ = './se_resnet32_apa_cifar100-lt.py'
model = dict(head=dict(cls_predictor_cfg=dict(scale=25.0, learn_scale=True)))

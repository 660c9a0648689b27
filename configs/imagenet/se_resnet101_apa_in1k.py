# SE-ResNet-101; the rest as se_resnet50_apa_in1k.py. Published on ImageNet-1K: top-1 80.3.
_base_ = './se_resnet50_apa_in1k.py'
model = dict(backbone=dict(depth=101))

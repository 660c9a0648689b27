# SE-ResNet-152; the rest as se_resnet50_apa_in1k.py. Published: top-1 80.8.
_base_ = './se_resnet50_apa_in1k.py'
model = dict(backbone=dict(depth=152))

# SE-ResNet-34; the rest as se_resnet50_apa_in1k.py.
_base_ = './se_resnet50_apa_in1k.py'
model = dict(backbone=dict(depth=34), head=dict(in_channels=512))

# SE-ResNeXt-50 32x4d; the rest as se_resnet50_apa_in1k.py.
_base_ = './se_resnet50_apa_in1k.py'
model = dict(backbone=dict(type='SEResNeXt'))

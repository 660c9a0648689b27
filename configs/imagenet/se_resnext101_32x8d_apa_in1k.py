# SE-ResNeXt-101 32x8d; the rest as se_resnet101_apa_in1k.py.
_base_ = './se_resnet101_apa_in1k.py'
model = dict(backbone=dict(type='SEResNeXt', base_width=8))

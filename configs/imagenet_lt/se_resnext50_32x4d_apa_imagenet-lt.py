# SE-ResNeXt-50 32x4d; the rest as se_resnet50_apa_imagenet-lt.py.
_base_ = './se_resnet50_apa_imagenet-lt.py'
model = dict(backbone=dict(type='SEResNeXt'))

# SE-ResNeXt-50 32x4d; the rest as the flagship.
_base_ = './mask_rcnn_se_r50_apa.py'
model = dict(backbone=dict(type='SEResNeXt', init_cfg=dict(checkpoint='pretrained/se_resnext50_32x4d_apa.pth')))

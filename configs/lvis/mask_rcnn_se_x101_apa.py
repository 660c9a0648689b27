# SE-ResNeXt-101 32x8d; the rest as mask_rcnn_se_r101_apa.py.
_base_ = './mask_rcnn_se_r101_apa.py'
model = dict(
    backbone=dict(type='SEResNeXt', base_width=8, init_cfg=dict(checkpoint='pretrained/se_resnext101_32x8d_apa.pth'))
)

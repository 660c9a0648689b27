# SE-ResNet-152; the rest as mask_rcnn_se_r101_apa.py.
_base_ = './mask_rcnn_se_r101_apa.py'
model = dict(backbone=dict(depth=152, init_cfg=dict(checkpoint='pretrained/se_resnet152_apa.pth')))

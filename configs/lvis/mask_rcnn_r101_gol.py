# GOL on a plain ResNet-101. Published on LVIS v1 val: mask AP 29.0, APr 22.8 (arXiv:2207.10936; not reproduced here).
_base_ = './mask_rcnn_r50_gol.py'
model = dict(backbone=dict(depth=101, init_cfg=dict(checkpoint='torchvision://resnet101')))

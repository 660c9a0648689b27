# APALU after the 3x3 of every block; the rest as mask_rcnn_se_r50_acon.py.
_base_ = './mask_rcnn_se_r50_acon.py'
model = dict(
    backbone=dict(act_cfg=dict(conv2=dict(type='APALU')), init_cfg=dict(checkpoint='pretrained/se_resnet50_apalu.pth'))
)

# APALU after the 3x3 of every block; the rest as se_resnet50_acon_in1k.py.
_base_ = './se_resnet50_acon_in1k.py'
model = dict(backbone=dict(act_cfg=dict(conv2=dict(type='APALU'))))

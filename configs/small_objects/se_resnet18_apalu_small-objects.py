# APALU at every site, as the ACONs; the rest as se_resnet18_relu_sigmoid_small-objects.py.
_base_ = './se_resnet18_relu_sigmoid_small-objects.py'
model = dict(backbone=dict(act_cfg=dict(type='APALU')))

# APALU at every site, as the ACONs; the rest as mask_rcnn_se_r18_relu_gol.py.
_base_ = './mask_rcnn_se_r18_relu_gol.py'
model = dict(backbone=dict(act_cfg=dict(type='APALU')))

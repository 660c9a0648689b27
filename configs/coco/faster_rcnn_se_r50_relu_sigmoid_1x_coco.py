# Baseline: ReLU and sigmoid attention instead of AGLU and APA; the rest as the base.
_base_ = './faster_rcnn_se_r50_apa_1x_coco.py'
model = dict(
    backbone=dict(
        act_cfg=dict(type='ReLU'),
        se_cfg=dict(norm_cfg=None, gate_cfg=dict(type='Sigmoid'), dropout=0.0),
        init_cfg=dict(checkpoint='pretrained/se_resnet50_relu_sigmoid.pth'),
    )
)

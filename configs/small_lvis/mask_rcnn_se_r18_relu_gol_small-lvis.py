# Baseline: ReLU and sigmoid attention instead of AGLU and APA; the rest as mask_rcnn_se_r18_apa_small-lvis.py.
_base_ = './mask_rcnn_se_r18_apa_small-lvis.py'
model = dict(
    backbone=dict(
        act_cfg=dict(type='ReLU'),
        se_cfg=dict(norm_cfg=None, gate_cfg=dict(type='Sigmoid'), dropout=0.0),
        init_cfg=dict(checkpoint='work_dirs/se_resnet18_relu_sigmoid_small-objects/epoch_6.pth'),
    )
)

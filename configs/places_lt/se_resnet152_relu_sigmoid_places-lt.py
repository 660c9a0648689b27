# Baseline: ReLU and sigmoid attention instead of AGLU and APA; the rest as se_resnet152_apa_places-lt.py.
_base_ = './se_resnet152_apa_places-lt.py'
model = dict(
    backbone=dict(
        act_cfg=dict(type='ReLU'),
        se_cfg=dict(norm_cfg=None, gate_cfg=dict(type='Sigmoid'), dropout=0.0),
        init_cfg=dict(checkpoint='pretrained/se_resnet152_relu_sigmoid.pth'),
    )
)

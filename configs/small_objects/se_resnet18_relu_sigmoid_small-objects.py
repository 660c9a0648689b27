# Baseline: ReLU and sigmoid attention instead of AGLU and APA; the rest as se_resnet18_apa_small-objects.py.
_base_ = './se_resnet18_apa_small-objects.py'
model = dict(
    backbone=dict(act_cfg=dict(type='ReLU'), se_cfg=dict(norm_cfg=None, gate_cfg=dict(type='Sigmoid'), dropout=0.0))
)

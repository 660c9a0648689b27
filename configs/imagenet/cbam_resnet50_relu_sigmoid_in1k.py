# Baseline: ReLU and sigmoid gates without a norm before them instead of AGLU and APA; the rest as
# cbam_resnet50_apa_in1k.py.
_base_ = './cbam_resnet50_apa_in1k.py'
model = dict(
    backbone=dict(act_cfg=dict(type='ReLU'), se_cfg=dict(type='CBAM', norm_cfg=None, gate_cfg=dict(type='Sigmoid')))
)

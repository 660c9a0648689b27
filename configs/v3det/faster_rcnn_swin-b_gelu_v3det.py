# Baseline: GELU instead of AGLU; the rest as the base.
_base_ = './faster_rcnn_swin-b_apa_v3det.py'
model = dict(backbone=dict(act_cfg=dict(_delete_=True, type='GELU')))

# CBAM (a gate for each channel, then one for each position, both APA) instead of squeeze and excitation; the rest as
# se_resnet50_apa_in1k.py. Published on ImageNet-1K: top-1 78.9 (arXiv:2407.08567; not reproduced here).
_base_ = './se_resnet50_apa_in1k.py'
model = dict(backbone=dict(se_cfg=dict(type='CBAM')))

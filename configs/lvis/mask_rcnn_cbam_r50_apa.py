# CBAM (a gate for each channel, then one for each position, both APA) instead of squeeze and excitation.
_base_ = './mask_rcnn_se_r50_apa.py'
model = dict(backbone=dict(se_cfg=dict(type='CBAM'), init_cfg=dict(checkpoint='pretrained/cbam_resnet50_apa.pth')))

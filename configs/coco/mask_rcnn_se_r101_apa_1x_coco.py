_base_ = './mask_rcnn_se_r50_apa_1x_coco.py'
model = dict(backbone=dict(depth=101, init_cfg=dict(checkpoint='pretrained/se_resnet101_apa.pth')))

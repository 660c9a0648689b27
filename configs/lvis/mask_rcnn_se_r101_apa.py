# Published on LVIS v1 val: mask AP 30.7, APr 23.6 (arXiv:2407.08567; not reproduced here).
_base_ = './mask_rcnn_se_r50_apa.py'
model = dict(
    backbone=dict(depth=101, init_cfg=dict(checkpoint='pretrained/se_resnet101_apa.pth')),
    roi_head=dict(
        mask_head=dict(
            upsample_cfg=dict(_delete_=True, type='deconv', scale_factor=2),
            predictor_cfg=dict(type='NormedConv2d'),  # its temperature is 20
        )
    ),
)

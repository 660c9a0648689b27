# GOL on a plain ResNet-50. Published on LVIS v1 val: mask AP 27.7, APr 21.4 (arXiv:2207.10936; not reproduced here).
# Its weights load as they are.
_base_ = './mask_rcnn_se_r50_apa.py'
model = dict(
    backbone=dict(type='ResNet', init_cfg=dict(checkpoint='torchvision://resnet50')),
    roi_head=dict(
        mask_head=dict(
            upsample_cfg=dict(_delete_=True, type='deconv', scale_factor=2),
            predictor_cfg=dict(type='NormedConv2d'),  # its temperature is 20
        )
    ),
    test_cfg=dict(rcnn=dict(mask_thr_binary=0.5)),
)

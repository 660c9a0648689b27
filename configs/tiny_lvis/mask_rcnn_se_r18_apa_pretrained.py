# From weights of configs/tiny_objects/se_resnet18_apa_tiny-objects.py instead of random ones, with the stem, stage 1
# and the statistics of norms frozen, as at full size; the rest as mask_rcnn_se_r18_apa.py.
_base_ = './mask_rcnn_se_r18_apa.py'
model = dict(
    backbone=dict(
        frozen_stages=1,
        norm_eval=True,
        init_cfg=dict(
            _delete_=True, type='Pretrained', checkpoint='work_dirs/se_resnet18_apa_tiny-objects/epoch_6.pth'
        ),
    )
)

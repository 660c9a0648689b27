# Baseline: Seesaw loss with the cosine classifier of its recipe in MMDetection (arXiv:2008.10032) instead of GOL, on
# a plain ResNet-50; the rest as mask_rcnn_r50_gol.py.
_base_ = './mask_rcnn_r50_gol.py'
model = dict(
    roi_head=dict(
        bbox_head=dict(
            cls_predictor_cfg=dict(type='NormedLinear'),  # its temperature is 20
            loss_cls=dict(_delete_=True, type='SeesawLoss', num_classes=1203),
            init_cfg=None,  # mmdet's own
        )
    )
)

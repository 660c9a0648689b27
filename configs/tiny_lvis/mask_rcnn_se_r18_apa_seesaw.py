# AGLU and APA with Seesaw loss and the cosine classifier of its recipe in MMDetection (arXiv:2008.10032) instead of the
# Gumbel link; the rest as mask_rcnn_se_r18_apa.py.
_base_ = './mask_rcnn_se_r18_apa.py'
model = dict(
    roi_head=dict(
        bbox_head=dict(
            cls_predictor_cfg=dict(type='NormedLinear'),  # its temperature is 20
            loss_cls=dict(_delete_=True, type='SeesawLoss', num_classes=48),
            init_cfg=None,  # mmdet's own
        )
    )
)

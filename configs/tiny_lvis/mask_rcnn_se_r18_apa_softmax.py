# AGLU and APA with softmax cross entropy instead of the Gumbel link; the rest as mask_rcnn_se_r18_apa.py.
_base_ = './mask_rcnn_se_r18_apa.py'
model = dict(
    roi_head=dict(
        bbox_head=dict(
            loss_cls=dict(_delete_=True, type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
            init_cfg=None,  # mmdet's own
        )
    )
)

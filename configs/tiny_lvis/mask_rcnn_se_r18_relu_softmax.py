# Baseline: ReLU, sigmoid attention and softmax cross entropy; the rest as mask_rcnn_se_r18_apa.py.
_base_ = './mask_rcnn_se_r18_apa.py'
model = dict(
    backbone=dict(act_cfg=dict(type='ReLU'), se_cfg=dict(norm_cfg=None, gate_cfg=dict(type='Sigmoid'), dropout=0.0)),
    roi_head=dict(
        bbox_head=dict(
            loss_cls=dict(_delete_=True, type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
            init_cfg=None,  # mmdet's own
        )
    ),
)

# Baseline: softmax cross entropy instead of GOL, on ReLU and sigmoid attention.
_base_ = './mask_rcnn_se_r50_relu_gol.py'
model = dict(
    roi_head=dict(
        bbox_head=dict(
            loss_cls=dict(_delete_=True, type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
            init_cfg=None,  # mmdet's own
        )
    )
)

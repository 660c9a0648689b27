# Baseline: ReLU, sigmoid attention and softmax cross entropy; the rest as mask_rcnn_se_r18_relu_gol_small-lvis.py.
_base_ = './mask_rcnn_se_r18_relu_gol_small-lvis.py'
model = dict(
    roi_head=dict(
        bbox_head=dict(
            loss_cls=dict(_delete_=True, type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
            init_cfg=None,  # mmdet's own
        )
    )
)

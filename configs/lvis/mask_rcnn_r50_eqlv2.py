# Baseline: Equalization Loss v2 (arXiv:2012.08548) instead of GOL, on a plain ResNet-50; the rest as
# mask_rcnn_r50_gol.py.
_base_ = './mask_rcnn_r50_gol.py'
model = dict(
    roi_head=dict(
        bbox_head=dict(
            loss_cls=dict(_delete_=True, type='BBoxHeadEQLV2Loss', num_classes=1203),
            init_cfg=None,  # mmdet's own
        )
    )
)

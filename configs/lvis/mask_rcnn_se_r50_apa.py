# Published on LVIS v1 val: mask AP 29.1, APr 21.6 (arXiv:2407.08567; not reproduced here).
_base_ = [
    '../_base_/models/mask_rcnn_se_r50_fpn.py',
    '../_base_/datasets/lvis_v1_instance.py',
    '../_base_/schedules/lvis_2x.py',
    '../_base_/default_runtime.py',
]
model = dict(
    data_preprocessor=dict(pool_padding_in_training=True),  # as the published training
    roi_head=dict(
        bbox_head=dict(
            type='LargeVocabularyBBoxHead',  # Shared2FCBBoxHead whose NMS does not loop over the classes
            num_classes=1203,
            # GOL: Gumbel link and DropLoss
            loss_cls=dict(
                _delete_=True,
                type='DropLoss',
                link='gumbel',
                num_classes=1203,
                class_frequency='{{ fileDirname }}/../_base_/datasets/lvis_v1_class_frequency.json',
            ),
            # a class starts at p = exp(−exp(2)) = 6e-4; this replaces mmdet's initialization of the other layers too,
            # which start from PyTorch's, as published
            init_cfg=dict(type='Constant', val=0.001, bias=-2.0, override=dict(name='fc_cls')),
        ),
        mask_head=dict(
            type='DeviceAgnosticFCNMaskHead',
            num_classes=1203,
            upsample_cfg=dict(
                type='carafe',
                scale_factor=2,
                up_kernel=5,
                up_group=1,
                encoder_kernel=3,
                encoder_dilation=1,
                compressed_channels=64,
            ),
            predictor_cfg=dict(type='LearnableNormedConv2d'),
        ),
    ),
    test_cfg=dict(rcnn=dict(score_thr=1e-4, nms=dict(iou_threshold=0.3), max_per_img=300, mask_thr_binary=0.4)),
)

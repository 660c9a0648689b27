# Masks from the pseudo-masks that SAM made for V3Det's boxes; without one, only boxes are learned. One mask for
# all classes: 13,204 for each of 128 RoIs would be 5 GB an image. Evaluated by boxes: V3Det's val has no masks.
_base_ = './faster_rcnn_se_r50_apa_v3det.py'
model = dict(
    type='MaskRCNN',
    roi_head=dict(
        mask_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0),
            out_channels=256,
            featmap_strides=[4, 8, 16, 32],
        ),
        mask_head=dict(
            type='PartiallyLabeledMaskHead',
            num_convs=4,
            in_channels=256,
            conv_out_channels=256,
            num_classes=13204,
            class_agnostic=True,
            loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0),
        ),
    ),
    train_cfg=dict(rcnn=dict(mask_size=28)),
    test_cfg=dict(rcnn=dict(mask_thr_binary=0.5)),
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadPartialMaskAnnotations', with_bbox=True),
    dict(
        type='RandomChoiceResize',
        scales=[(1333, 640), (1333, 672), (1333, 704), (1333, 736), (1333, 768), (1333, 800)],
        keep_ratio=True,
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    dataset=dict(dataset=dict(ann_file='annotations/v3det_2023_v1_train_sam.json', pipeline=train_pipeline))
)

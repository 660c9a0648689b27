# The flagship at the size of a CPU: SE-R18, narrow heads, the 48 classes at 160x160 that
# tools/make_tiny_lvis.py draws, a quarter of an hour on two cores from random weights.
_base_ = '../lvis/mask_rcnn_se_r50_apa.py'

# model
num_classes = 48
model = dict(
    data_preprocessor=dict(pool_padding_in_training=False),
    backbone=dict(depth=18, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(scales=[4])),  # objects of 16 to 80 pixels
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(
            in_channels=64,
            fc_out_channels=256,
            num_classes=num_classes,
            reg_class_agnostic=True,  # a rare class has two boxes to learn from
            loss_cls=dict(
                num_classes=num_classes,
                class_frequency='data/tiny_lvis/annotations/lvis_v1_train.json',
                frequency_threshold=0.0,  # the Gumbel link alone: in small sets rare classes need their negatives
            ),
            # mmdet's for all layers but the classifier: boxes and features start small for the high learning rate
            init_cfg=[
                dict(type='Constant', val=0.001, bias=-2.0, override=dict(name='fc_cls')),
                dict(type='Normal', std=0.001, override=dict(name='fc_reg')),
                dict(type='Xavier', distribution='uniform', override=dict(name='shared_fcs')),
            ],
        ),
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(
            num_convs=2,
            in_channels=64,
            conv_out_channels=64,
            num_classes=num_classes,
            upsample_cfg=dict(compressed_channels=16),
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)), rpn_proposal=dict(nms_pre=500, max_per_img=200), rcnn=dict(sampler=dict(num=64))
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100), rcnn=dict(score_thr=1e-2, max_per_img=50)),
)

# data
data_root = 'data/tiny_lvis/'
metainfo = dict(
    classes=tuple(
        f'{surface}_{shape}'
        for surface in ('checkered_yellow', 'dotted_blue', 'plain_green', 'plain_purple', 'striped_cyan', 'striped_red')
        for shape in ('crescent', 'cross', 'disk', 'heart', 'ring', 'square', 'star', 'triangle')
    )
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(160, 160), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        oversample_thr=0.03,
        dataset=dict(data_root=data_root, metainfo=metainfo, filter_cfg=dict(min_size=1), pipeline=train_pipeline),
    ),
)
val_dataloader = dict(num_workers=1, dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/lvis_v1_val.json')
test_evaluator = val_evaluator

# schedule
max_epochs = 5
train_cfg = dict(max_epochs=max_epochs, val_interval=1)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', convert_to_iter_based=True, T_max=max_epochs, eta_min_ratio=0.01),
]
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=8e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=10.0),
    paramwise_cfg=dict(activation_decay_mult=0.0),  # 0.05 would pull λ and κ to 0, where AGLU is linear
)
auto_scale_lr = dict(base_batch_size=8)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(max_keep_ckpts=1))
randomness = dict(seed=0)

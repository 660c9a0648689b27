# SE-ResNet-18 on the 48 classes of the tiny LVIS, one object an image, as tools/make_tiny_lvis.py --form imagenet draws
# them: ten minutes on two cores, after which configs/tiny_lvis/mask_rcnn_se_r18_apa_pretrained.py starts from it.
_base_ = '../imagenet/se_resnet18_apa_in1k.py'

# model
num_classes = 48
model = dict(
    data_preprocessor=dict(num_classes=num_classes),
    head=dict(num_classes=num_classes, loss=dict(use_soft=False)),
    train_cfg=None,  # no mixup: the training is short
)

# data
data_root = 'data/tiny_objects/'
metainfo = dict(
    classes=tuple(
        f'{surface}_{shape}'
        for surface in ('checkered_yellow', 'dotted_blue', 'plain_green', 'plain_purple', 'striped_cyan', 'striped_red')
        for shape in ('crescent', 'cross', 'disk', 'heart', 'ring', 'square', 'star', 'triangle')
    )
)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),  # the views are drawn
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='CenterCrop', crop_size=64),  # all of it
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=32, num_workers=1, dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=train_pipeline)
)
val_dataloader = dict(num_workers=1, dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=test_pipeline))
test_dataloader = val_dataloader

# schedule
max_epochs = 6
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', convert_to_iter_based=True, T_max=max_epochs, eta_min_ratio=0.01),
]
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=8e-4, weight_decay=0.05),
    paramwise_cfg=dict(activation_decay_mult=0.0),  # 0.05 would pull λ and κ to 0, where AGLU is linear
)
auto_scale_lr = dict(base_batch_size=32)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(max_keep_ckpts=1))
randomness = dict(seed=0)

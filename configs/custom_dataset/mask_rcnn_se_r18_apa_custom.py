# Your own data in COCO's format: a folder with annotations in trainval.json and images in images/. From random
# weights on a CPU:  DATA_ROOT=path/to/data python tools/train.py configs/custom_dataset/mask_rcnn_se_r18_apa_custom.py
# Change: classes, the file names below, and for more than a handful of images the schedule.
_base_ = '../tiny_lvis/mask_rcnn_se_r18_apa.py'

data_root = '{{$DATA_ROOT:data/own}}'
annotations = data_root + '/trainval.json'
classes = ('date', 'fig', 'hazelnut')

model = dict(
    rpn_head=dict(anchor_generator=dict(scales=[8])),
    roi_head=dict(
        bbox_head=dict(num_classes=len(classes), loss_cls=dict(num_classes=len(classes), class_frequency=annotations)),
        mask_head=dict(num_classes=len(classes)),
    ),
)

load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
resize = dict(type='Resize', scale=(400, 300), keep_ratio=True)
dataset = dict(
    type='CocoDataset',
    data_root=data_root,
    ann_file='trainval.json',
    data_prefix=dict(img='images/'),
    metainfo=dict(classes=classes),
)
train_dataloader = dict(
    batch_size=3,
    dataset=dict(
        _delete_=True,
        pipeline=[*load, resize, dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')],
        **dataset,
    ),
)
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        test_mode=True,
        pipeline=[
            load[0],
            resize,
            load[1],
            dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
        ],
        **dataset,
    )
)
test_dataloader = val_dataloader
val_evaluator = dict(
    _delete_=True,
    type='FastCocoMetric',
    ann_file=annotations,
    metric=['bbox', 'segm'],
    frequency_groups=dict(ann_file=annotations),
)
test_evaluator = val_evaluator

auto_scale_lr = dict(base_batch_size=3)
max_epochs = 40
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', convert_to_iter_based=True, T_max=max_epochs, eta_min_ratio=0.01),
]
default_hooks = dict(checkpoint=dict(interval=max_epochs))

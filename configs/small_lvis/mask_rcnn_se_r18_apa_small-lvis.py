# The flagship in the regime of LVIS at the size of a CPU: the 360 classes at 128x128 that tools/make_tiny_lvis.py
# --form small_lvis draws, a third of them in 10 images or fewer, from weights of
# configs/small_objects/se_resnet18_apa_small-objects.py; the rest as mask_rcnn_se_r18_apa_pretrained.py.
_base_ = '../tiny_lvis/mask_rcnn_se_r18_apa_pretrained.py'

# model
num_classes = 360
model = dict(
    backbone=dict(init_cfg=dict(checkpoint='work_dirs/se_resnet18_apa_small-objects/epoch_6.pth')),
    roi_head=dict(
        bbox_head=dict(
            num_classes=num_classes,
            loss_cls=dict(
                num_classes=num_classes,
                class_frequency='data/small_lvis/annotations/lvis_v1_train.json',
                frequency_threshold=0.002625,  # ten images: the rare classes
            ),
        ),
        # as the boxes: a rare class has one mask to learn from, and 360 maps of each object would take most of a step
        mask_head=dict(num_convs=1, num_classes=num_classes, class_agnostic=True),
    ),
    train_cfg=dict(rcnn=dict(sampler=dict(num=48))),
    test_cfg=dict(rpn=dict(max_per_img=50), rcnn=dict(score_thr=1e-4, max_per_img=100)),
)

# data
data_root = 'data/small_lvis/'
metainfo = dict(
    classes=tuple(
        f'{mark}_{surface}_{color}_{shape}'
        for mark in ('bar', 'blank', 'cap', 'dot', 'ring')
        for surface in ('checkered', 'plain', 'striped')
        for color in ('blue', 'orange', 'red', 'violet')
        for shape in ('cross', 'disk', 'heart', 'square', 'star', 'triangle')
    )
)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(128, 128), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    dataset=dict(
        oversample_thr=0.00625,  # below 25 images; an image with a class of its own comes five times
        dataset=dict(data_root=data_root, metainfo=metainfo),
    )
)
val_dataloader = dict(dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/lvis_v1_val.json')
test_evaluator = val_evaluator

# schedule
max_epochs = 1  # of 5,550 images
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', convert_to_iter_based=True, T_max=max_epochs, eta_min_ratio=0.01),
]

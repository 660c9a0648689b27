# GOL on LVIS v0.5. Published on its val: mask AP 29.5, APr 22.5 (arXiv:2207.10936; not reproduced here).
_base_ = './mask_rcnn_r50_gol.py'
data_root = 'data/lvis_v0.5/'
num_classes = 1230
model = dict(
    roi_head=dict(
        bbox_head=dict(
            num_classes=num_classes,
            loss_cls=dict(
                num_classes=num_classes,
                class_frequency=data_root + 'annotations/lvis_v0.5_train.json',
                frequency_threshold=0.00177,  # as published, some 100 images
            ),
        ),
        mask_head=dict(num_classes=num_classes),
    )
)
dataset = dict(type='SelectiveLVISV05Dataset', data_root=data_root)
train = dict(dataset, ann_file='annotations/lvis_v0.5_train.json', data_prefix=dict(img='train2017/'))
val = dict(dataset, ann_file='annotations/lvis_v0.5_val.json', data_prefix=dict(img='val2017/'))
train_dataloader = dict(dataset=dict(dataset=train))
val_dataloader = dict(dataset=val)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + val['ann_file'])
test_evaluator = val_evaluator

# iNaturalist 2018 by lists of `path label`, data/inat18/iNaturalist18_{train,val}.txt: trained on crops of 192 pixels
# with RandAugment and random erasing, each image four times with different augmentation.
_base_ = './imagenet_1k.py'
data_root = 'data/inat18/'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=192),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(
        type='RandAugment',
        policies='timm_increasing',
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic'),
    ),
    dict(type='RandomErasing', erase_prob=0.1, mode='rand', fill_color=[104, 116, 124], fill_std=[57, 57, 58]),
    dict(type='PackInputs'),
]
listed = dict(type='CustomDataset', data_root=data_root)
train_dataloader = dict(
    batch_size=256,
    num_workers=12,
    dataset=dict(listed, _delete_=True, ann_file='iNaturalist18_train.txt', pipeline=train_pipeline),
    sampler=dict(_delete_=True, type='RepeatAugSampler', num_repeats=4),
)
val_dataloader = dict(
    dataset=dict(listed, _delete_=True, ann_file='iNaturalist18_val.txt', pipeline={{_base_.test_pipeline}})
)
test_dataloader = val_dataloader
val_evaluator = dict(class_counts=f'{data_root}iNaturalist18_train.txt')
test_evaluator = val_evaluator

# Places-LT: Places365's images by lists of `path label`, data/places365/Places_LT_{train,val,test}.txt.
_base_ = './imagenet_1k.py'
data_root = 'data/places365/'
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=224),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=256, edge='short'),
    dict(type='CenterCrop', crop_size=224),
    dict(type='PackInputs'),
]
listed = dict(type='CustomDataset', data_root=data_root)
train_dataloader = dict(dataset=dict(listed, _delete_=True, ann_file='Places_LT_train.txt', pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(listed, _delete_=True, ann_file='Places_LT_val.txt', pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(listed, _delete_=True, ann_file='Places_LT_test.txt', pipeline=test_pipeline))
val_evaluator = dict(class_counts=f'{data_root}Places_LT_train.txt')
test_evaluator = val_evaluator

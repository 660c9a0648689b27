# ImageNet-LT: ImageNet's images by lists of `path label`, data/imagenet/meta/ImageNet_LT_{train,val,test}.txt.
_base_ = './imagenet_1k.py'
data_root = 'data/imagenet/'
train_dataloader = dict(dataset=dict(split='', ann_file='meta/ImageNet_LT_train.txt'))
val_dataloader = dict(dataset=dict(split='', ann_file='meta/ImageNet_LT_val.txt'))
test_dataloader = dict(dataset=dict(split='', ann_file='meta/ImageNet_LT_test.txt'))
val_evaluator = dict(class_counts=f'{data_root}meta/ImageNet_LT_train.txt')
test_evaluator = val_evaluator

# The scores of se_resnext50_32x4d_apa_imagenet-lt.py calibrated by class (IIF); its checkpoints fit, and training is
# the same. Published on ImageNet-LT: top-1 59.1 (arXiv:2407.08567; not reproduced here).
_base_ = './se_resnext50_32x4d_apa_imagenet-lt.py'
model = dict(
    type='mmdet.CalibrateScores',
    module=dict(type='ImageClassifier'),
    calibration=dict(type='mmdet.IIF', stats='data/imagenet/meta/ImageNet_LT_train.txt'),
)

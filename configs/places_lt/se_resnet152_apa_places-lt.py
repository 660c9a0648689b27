# From ImageNet; only the last residual block and the classifier are trained. Published on Places-LT: top-1 42.0
# (arXiv:2407.08567; not reproduced here).
_base_ = [
    '../_base_/models/se_resnet50_classifier.py',
    '../_base_/datasets/places_lt.py',
    '../_base_/schedules/places_lt_40e.py',
    '../_base_/classification_runtime.py',
]
model = dict(
    data_preprocessor=dict(num_classes=365),
    backbone=dict(
        depth=152,
        frozen_stages=3,
        frozen_blocks=2,
        init_cfg=dict(type='Pretrained', checkpoint='pretrained/se_resnet152_apa.pth'),
    ),
    head=dict(
        type='PredictorClsHead',
        num_classes=365,
        cls_predictor_cfg=dict(type='CosineLinear', scale=25.0, learn_scale=True),
        loss=dict(_delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1),
    ),
    # one of the two for each batch
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.2), dict(type='CutMix', alpha=1.0)]),
)

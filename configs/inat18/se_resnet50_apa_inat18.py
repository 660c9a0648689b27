# Published on iNaturalist 2018: top-1 74.8 (arXiv:2407.08567; not reproduced here).
_base_ = [
    '../_base_/models/se_resnet50_classifier.py',
    '../_base_/datasets/inat18.py',
    '../_base_/schedules/inat18_500e.py',
    '../_base_/classification_runtime.py',
]
model = dict(
    data_preprocessor=dict(num_classes=8142),
    head=dict(
        type='PredictorClsHead',
        num_classes=8142,
        cls_predictor_cfg=dict(type='CosineLinear'),
        loss=dict(_delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1),
    ),
    # one of the two for each batch
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.2), dict(type='CutMix', alpha=1.0)]),
)

# SE-ResNet-32 for CIFAR with AGLU activations and APA attention, average pooling and a cosine classifier.
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        num_classes=100,
        # of RGB, which MMPretrain's CIFAR100 gives
        mean=[129.304, 124.070, 112.434],
        std=[68.170, 65.392, 70.418],
        to_rgb=False,
    ),
    backbone=dict(type='SEResNetCifar', _scope_='mmdet', depth=32, norm_eval=False),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='PredictorClsHead',
        num_classes=100,
        in_channels=64,
        cls_predictor_cfg=dict(type='CosineLinear'),
        loss=dict(type='CrossEntropyLoss', use_soft=True),  # mixed labels
    ),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.2)]),
)

# SE-ResNet-50 with AGLU activations and APA attention (SEResNet's defaults), average pooling and a linear classifier.
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        num_classes=1000,
        # of RGB
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
    # MMPretrain has a SEResNet of its own
    backbone=dict(type='SEResNet', _scope_='mmdet', depth=50, out_indices=(3,), norm_eval=False),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        in_channels=2048,
        loss=dict(type='CrossEntropyLoss', use_soft=True),  # mixed labels
    ),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.2)]),
)

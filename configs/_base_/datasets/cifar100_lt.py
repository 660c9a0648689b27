# CIFAR-100-LT, imbalance 100, made of CIFAR-100 in data/cifar100/cifar-100-python/.
data_root = 'data/cifar100/'
# AutoAugment's policies for CIFAR-10 (arXiv:1805.09501, table 7), which MMPretrain lacks; of 10 levels.
ranges = dict(
    Shear=(0, 0.3), Translate=(0, 150 / 331), Rotate=(0, 30), Solarize=(256, 0), Posterize=(8, 4),
    Brightness=(0, 0.9), ColorTransform=(0, 0.9), Contrast=(0, 0.9), Sharpness=(0, 0.9),
)  # fmt: skip


def policy(name, prob, level=None):
    kind, _, axis = name.partition(' ')
    step = dict(type=kind, prob=prob)
    if axis:
        step['direction'] = dict(x='horizontal', y='vertical')[axis]
    if kind in ranges:
        step.update(magnitude_range=ranges[kind], magnitude_level=level, total_level=9)
    return step


policies = [
    [policy(*first), policy(*second)]
    for first, second in [
        (('Invert', 0.1), ('Contrast', 0.2, 6)),
        (('Rotate', 0.7, 2), ('Translate x', 0.3, 9)),
        (('Sharpness', 0.8, 1), ('Sharpness', 0.9, 3)),
        (('Shear y', 0.5, 8), ('Translate y', 0.7, 9)),
        (('AutoContrast', 0.5), ('Equalize', 0.9)),
        (('Shear y', 0.2, 7), ('Posterize', 0.3, 7)),
        (('ColorTransform', 0.4, 3), ('Brightness', 0.6, 7)),
        (('Sharpness', 0.3, 9), ('Brightness', 0.7, 9)),
        (('Equalize', 0.6), ('Equalize', 0.5)),
        (('Contrast', 0.6, 7), ('Sharpness', 0.6, 5)),
        (('ColorTransform', 0.7, 7), ('Translate x', 0.5, 8)),
        (('Equalize', 0.3), ('AutoContrast', 0.4)),
        (('Translate y', 0.4, 3), ('Sharpness', 0.2, 6)),
        (('Brightness', 0.9, 6), ('ColorTransform', 0.2, 8)),
        (('Solarize', 0.5, 2), ('Invert', 0.0)),
        (('Equalize', 0.2), ('AutoContrast', 0.6)),
        (('Equalize', 0.2), ('Equalize', 0.6)),
        (('ColorTransform', 0.9, 9), ('Equalize', 0.6)),
        (('AutoContrast', 0.8), ('Solarize', 0.2, 8)),
        (('Brightness', 0.1, 3), ('ColorTransform', 0.7, 0)),
        (('Solarize', 0.4, 5), ('AutoContrast', 0.9)),
        (('Translate y', 0.9, 9), ('Translate y', 0.7, 9)),
        (('AutoContrast', 0.9), ('Solarize', 0.8, 3)),
        (('Equalize', 0.8), ('Invert', 0.1)),
        (('Translate y', 0.7, 9), ('AutoContrast', 0.9)),
    ]
]
train_pipeline = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='AutoAugment', policies=policies, hparams=dict(pad_val=[129, 124, 112])),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=512,
    num_workers=4,
    persistent_workers=True,
    dataset=dict(
        type='CIFAR100LT', data_root=data_root, split='train', ratio=100, download=False, pipeline=train_pipeline
    ),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=512,
    num_workers=2,
    persistent_workers=True,
    dataset=dict(type='CIFAR100LT', data_root=data_root, split='test', download=False, pipeline=test_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='ShotAccuracy', topk=(1, 5), class_counts=dict(largest=500, ratio=100))
test_evaluator = val_evaluator

# 100 epochs of 256 images a step: SGD 0.256, linear warm-up over 3 epochs, cosine.
train_cfg = dict(type='ResumableEpochBasedTrainLoop', max_epochs=100, val_interval=1)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.256, momentum=0.875, weight_decay=6.1e-5),
    constructor='ActivationOptimWrapperConstructor',
    paramwise_cfg=dict(activation_decay_mult=dict(AGLU=1.0, APA=1.0)),  # as published
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, end=3, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', begin=3, end=100, T_max=97),
]
auto_scale_lr = dict(base_batch_size=256)

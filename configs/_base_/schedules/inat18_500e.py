# 500 epochs of 1,024 images a step: SGD 0.5, linear warm-up over 5 epochs, cosine; norms do not decay.
train_cfg = dict(type='ResumableEpochBasedTrainLoop', max_epochs=500, val_interval=10)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.5, momentum=0.9, weight_decay=1e-4),
    constructor='ActivationOptimWrapperConstructor',
    paramwise_cfg=dict(activation_decay_mult=dict(AGLU=1.0, APA=1.0), norm_decay_mult=0.0),  # as published
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', begin=5, end=500, T_max=495),
]
auto_scale_lr = dict(base_batch_size=1024)

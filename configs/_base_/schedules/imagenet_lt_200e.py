# 200 epochs of 256 images a step: SGD 0.2, cosine.
train_cfg = dict(type='ResumableEpochBasedTrainLoop', max_epochs=200, val_interval=1)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.2, momentum=0.9, weight_decay=1e-4),
    constructor='ActivationOptimWrapperConstructor',
    paramwise_cfg=dict(activation_decay_mult=dict(AGLU=1.0, APA=1.0)),  # as published
)
param_scheduler = [dict(type='CosineAnnealingLR', end=200, T_max=200)]
auto_scale_lr = dict(base_batch_size=256)

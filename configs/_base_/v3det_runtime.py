# What the V3Det configs add to MMDetection's: our runtime, a resumable loop of iterations, the decay of λ and κ; and a
# data set that does not search 13,204 classes for each box, which saves minutes at each start.
_base_ = './apa_runtime.py'
v3det_loop = dict(type='ResumableIterBasedTrainLoop')
v3det_optim_wrapper = dict(
    constructor='ActivationOptimWrapperConstructor',
    paramwise_cfg=dict(activation_decay_mult=dict(AGLU=1.0, APA=1.0)),  # as published
)
v3det_backbone = dict(type='SEResNet', init_cfg=dict(checkpoint='pretrained/se_resnet50_apa.pth'))
v3det_dataset = dict(type='IndexedV3DetDataset')

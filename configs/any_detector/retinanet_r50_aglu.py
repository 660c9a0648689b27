# Two parts, each in its own way: the backbone like ReLU at the start, for its ImageNet weights; the head, which starts
# from random weights, with AGLU's own.
_base_ = ['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', '../_base_/apa_runtime.py']
default_hooks = _base_.apa_hooks
env_cfg = _base_.apa_env_cfg
visualizer = dict(type='LegibleVisualizer')
optim_wrapper = _base_.apa_optim_wrapper
train_cfg = dict(type='ResumableEpochBasedTrainLoop')
model = dict(
    backbone=dict(
        type='SwapActivations',
        module=dict(type='ResNet'),
        swap=dict(ReLU=dict(type='AGLU', lambda_init=(1.0, 1.0), kappa_init=(10.0, 10.0))),
    ),
    bbox_head=dict(type='SwapActivations', module=dict(type='RetinaHead'), swap=dict(ReLU=dict(type='AGLU'))),
)

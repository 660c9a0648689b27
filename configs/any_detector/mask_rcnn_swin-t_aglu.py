# The MLPs of the backbone. AGLU starts at λ = 1, κ = 1.702, where it is GELU to 0.02, so that ImageNet weights fit.
_base_ = ['mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py', '../_base_/apa_runtime.py']
default_hooks = _base_.apa_hooks
env_cfg = _base_.apa_env_cfg
visualizer = dict(type='LegibleVisualizer')
optim_wrapper = _base_.apa_optim_wrapper
train_cfg = dict(type='ResumableEpochBasedTrainLoop')
model = dict(
    backbone=dict(
        type='SwapActivations',
        module=dict(type='SwinTransformer'),
        swap=dict(GELU=dict(type='AGLU', lambda_init=(1.0, 1.0), kappa_init=(1.702, 1.702))),
    )
)

# The feed-forward networks of the transformer alone, which start from random weights: one site a layer.
_base_ = ['mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py', '../_base_/apa_runtime.py']
default_hooks = _base_.apa_hooks
env_cfg = _base_.apa_env_cfg
visualizer = dict(type='LegibleVisualizer')
optim_wrapper = _base_.apa_optim_wrapper
train_cfg = dict(type='ResumableEpochBasedTrainLoop')
model = dict(
    type='SwapActivations',
    module=dict(type='DINO'),
    swap=dict(ReLU=dict(type='AGLU')),
    include=['encoder.*', 'decoder.*'],
)

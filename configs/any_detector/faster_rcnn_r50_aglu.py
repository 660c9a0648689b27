# The whole detector: 49 sites of the backbone and the two of the box head; the one that the RPN head calls as a
# function stays ReLU. AGLU starts at λ = 1, κ = 10, where it is ReLU to 0.03, so that ImageNet weights of the ReLU
# network fit, and the frozen stages stay what they are.
_base_ = ['mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', '../_base_/apa_runtime.py']
default_hooks = _base_.apa_hooks
env_cfg = _base_.apa_env_cfg
visualizer = dict(type='LegibleVisualizer')
optim_wrapper = _base_.apa_optim_wrapper
train_cfg = dict(type='ResumableEpochBasedTrainLoop')
model = dict(
    type='SwapActivations',
    module=dict(type='FasterRCNN'),
    swap=dict(ReLU=dict(type='AGLU', lambda_init=(1.0, 1.0), kappa_init=(10.0, 10.0))),
)

# The whole detector. AGLU starts at λ = κ = 1, which is SiLU: weights of the stock detector give the stock results.
_base_ = ['mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', '../_base_/apa_runtime.py']
default_hooks = _base_.apa_hooks
env_cfg = _base_.apa_env_cfg
visualizer = dict(type='LegibleVisualizer')
optim_wrapper = _base_.apa_optim_wrapper
train_cfg = dict(type='ResumableEpochBasedTrainLoop')
auto_scale_lr = dict(base_batch_size=256)  # 8 GPUs; the stock config says 16, which its learning rate is not for
model = dict(
    type='SwapActivations',
    module=dict(type='RTMDet'),
    swap=dict(SiLU=dict(type='AGLU', lambda_init=(1.0, 1.0), kappa_init=(1.0, 1.0))),
)
val_dataloader = dict(batch_size=1)
test_dataloader = val_dataloader

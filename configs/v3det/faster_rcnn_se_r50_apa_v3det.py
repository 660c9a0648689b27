# Published on V3Det val: box AP 29.9 (arXiv:2407.08567; not reproduced here).
_base_ = ['mmdet::v3det/faster_rcnn_r50_fpn_8x4_sample1e-3_mstrain_v3det_2x.py', '../_base_/v3det_runtime.py']
default_hooks = _base_.apa_hooks
env_cfg = _base_.apa_env_cfg
visualizer = dict(type='LegibleVisualizer')
train_cfg = _base_.v3det_loop
optim_wrapper = _base_.v3det_optim_wrapper
train_dataloader = dict(dataset=dict(dataset=_base_.v3det_dataset))
val_dataloader = dict(dataset=_base_.v3det_dataset)
test_dataloader = val_dataloader
model = dict(
    # an image has the result that it has alone, also beside a larger one in a batch; not in training, as published
    data_preprocessor=dict(type='PaddingAwareDetDataPreprocessor', pool_padding_in_training=True),
    rpn_head=dict(type='PaddingAwareRPNHead'),
    backbone=_base_.v3det_backbone,
    roi_head=dict(
        bbox_head=dict(
            type='LargeVocabularyBBoxHead',
            cls_predictor_cfg=dict(_delete_=True, type='WrappedCauchyLinear'),
            loss_cls=dict(_delete_=True, type='MemoryEfficientCrossEntropyLoss'),
        )
    ),
)
val_evaluator = dict(type='FastCocoMetric')
test_evaluator = val_evaluator

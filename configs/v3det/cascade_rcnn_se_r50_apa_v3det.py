# Published on V3Det val: box AP 35.4 (arXiv:2407.08567; not reproduced here).
_base_ = ['mmdet::v3det/cascade_rcnn_r50_fpn_8x4_sample1e-3_mstrain_v3det_2x.py', '../_base_/v3det_runtime.py']
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
        bbox_head=[
            dict(
                type='LargeVocabularyBBoxHead',
                in_channels=256,
                fc_out_channels=1024,
                roi_feat_size=7,
                num_classes=13204,
                bbox_coder=dict(
                    type='DeltaXYWHBBoxCoder', target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[xy, xy, wh, wh]
                ),
                reg_class_agnostic=True,
                cls_predictor_cfg=dict(type='WrappedCauchyLinear'),
                loss_cls=dict(type='MemoryEfficientCrossEntropyLoss'),
                loss_bbox=dict(type='L1Loss', loss_weight=1.0),
            )
            for xy, wh in ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067))
        ]
    ),
)
val_evaluator = dict(type='FastCocoMetric')
test_evaluator = val_evaluator

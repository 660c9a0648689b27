_base_ = 'mmdet::_base_/schedules/schedule_2x.py'
train_cfg = dict(type='ResumableEpochBasedTrainLoop')
optim_wrapper = dict(constructor='ActivationOptimWrapperConstructor')  # no decay of what activations learn

# The runtime of image classification: MMPretrain's, with our hooks. Needs MMPretrain (docs/pretraining.md).
_base_ = ['mmpretrain::_base_/default_runtime.py', './apa_runtime.py']
custom_imports = dict(imports=['apa_mmdet', 'apa_mmdet.classification'], allow_failed_imports=False)
default_hooks = dict(_base_.apa_hooks, checkpoint=dict(type='AtomicCheckpointHook', max_keep_ckpts=3))
val_cfg = dict()
test_cfg = dict()

# The additions to MMDetection's runtime (docs/fault_tolerance.md, docs/activations.md). A config takes them by
#     _base_ = ['mmdet::…', '../_base_/apa_runtime.py']
#     default_hooks = _base_.apa_hooks
#     env_cfg = _base_.apa_env_cfg
#     visualizer = dict(type='LegibleVisualizer')
#     optim_wrapper = _base_.apa_optim_wrapper
# and, for exact resumption, train_cfg = dict(type='ResumableEpochBasedTrainLoop'), or ResumableIterBasedTrainLoop.
custom_imports = dict(imports=['apa_mmdet'], allow_failed_imports=False)
runner_type = 'SafeRunner'
apa_hooks = dict(
    checkpoint=dict(type='AtomicCheckpointHook'),
    resume=dict(type='ExactResumeHook'),
    finite=dict(type='SkipNonFiniteHook'),
    activations=dict(type='ActivationHealthHook'),
    activation_stats=dict(type='ActivationStatsHook'),
)
# what activations learn is exempt from weight decay
apa_optim_wrapper = dict(constructor='ActivationOptimWrapperConstructor')
# while process 0 evaluates, the others wait for it; nccl gives up after ten minutes
apa_env_cfg = dict(dist_cfg=dict(timeout=7200))

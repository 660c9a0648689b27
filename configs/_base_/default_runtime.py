_base_ = 'mmdet::_base_/default_runtime.py'
custom_imports = dict(imports=['apa_mmdet'], allow_failed_imports=False)
# docs/fault_tolerance.md
default_hooks = dict(
    checkpoint=dict(type='AtomicCheckpointHook'),
    resume=dict(type='ExactResumeHook'),
    finite=dict(type='SkipNonFiniteHook'),
    activations=dict(type='ActivationHealthHook'),
    activation_stats=dict(type='ActivationStatsHook'),  # docs/activations.md
)

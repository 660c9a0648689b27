_base_ = ['mmdet::_base_/default_runtime.py', './apa_runtime.py']
default_hooks = _base_.apa_hooks
env_cfg = _base_.apa_env_cfg
visualizer = dict(type='LegibleVisualizer')

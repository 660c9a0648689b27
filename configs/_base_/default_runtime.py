_base_ = ['mmdet::_base_/default_runtime.py', './hooks.py']
default_hooks = _base_.apa_hooks

"""Checks whether the operators of mmcv that a model needs take the dtype in which it trains."""

from collections.abc import Iterator
from typing import Any

from mmengine.optim import AmpOptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, DefaultScope

from apa_mmdet.datasets.validation.findings import Findings
from apa_mmdet.engine.optimizers import MixedPrecisionOptimWrapper

from .launch import Launch

# what a config shows of the operators that have no bfloat16: a part by its key, a module by its type
OPERATORS_OF = {
    'roi_head': 'RoIAlign',
    'FocalLoss': 'sigmoid_focal_loss',
    'DCN': 'deform_conv2d',
    'DCNv2': 'modulated_deform_conv2d',
    'DINO': 'deformable attention',
    'DeformableDETR': 'deformable attention',
}


def check_dtypes(launch: Launch, findings: Findings) -> None:
    """Reports training in bfloat16 by MMEngine's own wrapper, which would end with the first step."""
    wrapper = launch.cfg.get('optim_wrapper')
    if launch.tool != 'train.py' or not isinstance(wrapper, dict):
        return
    with DefaultScope.overwrite_default_scope(launch.cfg.get('default_scope') or 'mmdet'):
        name = wrapper.get('type')
        cls = OPTIM_WRAPPERS.get(name) if isinstance(name, str) else name
    amp = isinstance(cls, type) and issubclass(cls, AmpOptimWrapper)
    if amp and not issubclass(cls, MixedPrecisionOptimWrapper) and wrapper.get('dtype') == 'bfloat16':
        operators = [OPERATORS_OF[name] for name in _names(launch.cfg.get('model')) if name in OPERATORS_OF]
        if operators:
            operators = ', '.join(dict.fromkeys(operators))
            findings.add('bfloat16-operators', ['optim_wrapper'], setting='optim_wrapper', operators=operators)


def _names(node: Any) -> Iterator[str]:
    """The keys of parts and the types of modules in a config."""
    if isinstance(node, dict):
        if isinstance(node.get('type'), str):
            yield node['type'].rsplit('.', 1)[-1]
        for key, value in node.items():
            yield key
            yield from _names(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _names(value)

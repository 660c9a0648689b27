"""Checks whether the operators of mmcv that a model needs take the dtype in which it trains."""

from collections.abc import Iterator
from typing import Any

from mmengine.optim import AmpOptimWrapper
from mmengine.registry import OPTIM_WRAPPERS

from apa_mmdet.engine.optimizers import MixedPrecisionOptimWrapper
from apa_mmdet.utils.config import walk
from apa_mmdet.utils.findings import Findings
from apa_mmdet.utils.registered_classes import builds

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
    stock = builds(wrapper, AmpOptimWrapper, OPTIM_WRAPPERS)
    stock = stock and not builds(wrapper, MixedPrecisionOptimWrapper, OPTIM_WRAPPERS)
    if stock and wrapper.get('dtype') == 'bfloat16':
        operators = [OPERATORS_OF[name] for name in _names(launch.cfg.get('model')) if name in OPERATORS_OF]
        if operators:
            operators = ', '.join(dict.fromkeys(operators))
            findings.add('bfloat16-operators', ['optim_wrapper'], setting='optim_wrapper', operators=operators)


def _names(model: Any) -> Iterator[str]:
    """The keys of parts and the types of modules in a config."""
    for path, node in walk(model, 'model'):
        yield path.rsplit('.', 1)[-1]
        if isinstance(node, dict) and isinstance(node.get('type'), str):
            yield node['type'].rsplit('.', 1)[-1]

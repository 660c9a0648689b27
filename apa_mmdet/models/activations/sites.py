"""The learnable activations of a network: where they are, and what hooks watch of them."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from .base import LearnableActivation, LearnableFunction


class LearnableActivationInfo(NamedTuple):
    """A learnable activation of a network: the name of its module, its stage, and its slot in a block."""

    name: str
    stage: str
    slot: str
    activation: LearnableActivation


def find_learnable_activations(
    model: nn.Module, kind: type[LearnableFunction] = LearnableActivation
) -> list[LearnableActivationInfo]:
    """Returns every learnable activation of a model, in the order of its modules; of ``LearnableFunction``, links too.

    Example:
        >>> from mmdet.registry import MODELS
        >>> sites = find_learnable_activations(MODELS.build(dict(type='SEResNet', depth=18)))
        >>> [(site.stage, site.slot) for site in sites[:4]]
        [('stem', ''), ('layer1', 'conv1'), ('layer1', 'out'), ('layer1', 'se gate')]
    """
    return [
        LearnableActivationInfo(name, *_stage_and_slot(name), module)
        for name, module in model.named_modules()
        if isinstance(module, kind)
    ]


@torch.no_grad()
def watched_values(sites: Sequence[LearnableActivationInfo]) -> list[tuple[LearnableActivationInfo, str, np.ndarray]]:
    """Returns what hooks log and check of each activation, by name, in float32; one copy from the GPU for all."""
    watched = [(site, name, v.flatten()) for site in sites for name, v in site.activation.watched().items()]
    if not watched:
        return []
    numbers = torch.cat([values for *_, values in watched]).float().cpu().numpy()
    ends = np.cumsum([len(values) for *_, values in watched])
    return [(site, name, part) for (site, name, _), part in zip(watched, np.split(numbers, ends[:-1]))]


def _stage_and_slot(name: str) -> tuple[str, str]:
    """Returns stage and slot of an activation, from the name of its module."""
    if name.endswith('act_stem'):
        return 'stem', ''
    stage = re.match(r'(?:backbone\.)?(.*?(?:layers?|stages?|blocks)\.?\d+)', name)
    slot = re.search(r'[^.]+(?:\.\d+)*$', name).group()  # numbers at the end distinguish activations of a block
    slot = 'se gate' if name.endswith('.se.gate') else slot.removeprefix('act_')
    return stage.group(1) if stage else name.split('.')[0], slot

"""Loads weights as the modules of a model take them, which rename and reshape those of older versions as they load."""

from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from apa_mmdet.utils.model import unwrap_model

from .compare import StateDict


class Taken(NamedTuple):
    """What the modules of a model took.

    Attributes:
        weights: under the names and in the shapes in which the modules take them; what none takes keeps its name.
        expected: the parameters and buffers of the model.
        modules: names of its modules.
    """

    weights: StateDict
    expected: StateDict
    modules: set[str]

    def inside(self, names: Iterable[str]) -> list[str]:
        """Those of ``names`` whose module the model has: a classifier or auxiliary head has others."""
        return [name for name in names if '.' in name and name.rpartition('.')[0] in self.modules]


def load_as_taken(model: nn.Module, given: StateDict) -> Taken:
    """Loads weights as far as they fit, as MMEngine does.

    Args:
        model: where they go.
        given: name → tensor.
    """
    metadata = getattr(given, '_metadata', {})
    taken: StateDict = {}
    expected: StateDict = {}
    modules: set[str] = set()
    unexpected: list[str] = []
    same: set[str] = set()  # as what the model has but does not save, such as the means of images

    def load(module: nn.Module, weights: StateDict, prefix: str) -> None:
        module = unwrap_model(module)
        modules.add(prefix[:-1])
        module._load_from_state_dict(weights, prefix, metadata.get(prefix[:-1], {}), True, [], unexpected, [])
        for name, tensor in _saved_tensors(module):
            expected[prefix + name] = tensor
            # norms add the counters that old ones lack
            if prefix + name in weights and (tensor.is_floating_point() or prefix + name in given):
                taken[prefix + name] = weights[prefix + name]
        for name in module._non_persistent_buffers_set:
            if _is_same(given.get(prefix + name), module._buffers[name]):
                same.add(prefix + name)
        for name, child in module._modules.items():
            inside = f'{prefix}{name}.'
            if child is not None:
                load(child, OrderedDict((key, weights[key]) for key in weights if key.startswith(inside)), inside)

    load(model, OrderedDict(given), '')
    others = {name: given[name] for name in unexpected if name in given and name not in same}
    return Taken({**taken, **others}, expected, modules)


def _is_same(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None or a.is_meta or (a.dtype, a.layout) != (b.dtype, b.layout):
        return False
    return torch.equal(a.to(b.device), b)


def _saved_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """The parameters and buffers that a module itself saves."""
    return [
        (name, tensor.detach())
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]
        if tensor is not None and name not in module._non_persistent_buffers_set
    ]

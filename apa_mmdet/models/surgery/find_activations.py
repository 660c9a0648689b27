"""Finds the activations of a model with their call sites."""

from collections import Counter
from dataclasses import dataclass

from mmcv.cnn import ConvModule
from mmdet.registry import MODELS
from torch import nn

from apa_mmdet.models.activations.base import needs_channels

from .call_sites import CallSite, CallSiteDispatcher, Unresolved, find_call_sites
from .errors import SwapError

ACTIVATION_MODULES = (
    'torch.nn.modules.activation',
    'mmcv.cnn.bricks.activation',
    'mmcv.cnn.bricks.swish',
    'mmcv.cnn.bricks.hswish',
    'mmcv.cnn.bricks.hsigmoid',
    'apa_mmdet.models.activations',
)
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, ConvModule)  # an activation in one has one call site


@dataclass
class FoundActivation:
    """An activation of the type ``type_name`` that ``owner`` holds under ``name``."""

    path: str
    owner: nn.Module
    name: str
    type_name: str
    call_sites: list[CallSite] | Unresolved

    @property
    def module(self) -> nn.Module:
        return self.owner._modules[self.name]

    @property
    def resolved(self) -> dict[str, CallSite]:
        """Its call sites by their names; empty if they are unknown."""
        if isinstance(self.call_sites, Unresolved):
            return {}
        if isinstance(self.owner, CallSiteDispatcher):  # swapped before, at all call sites; this is one of them
            return {f'{self.path}.{self.name}': self.call_sites[0]}
        several = len(self.call_sites) > 1
        return {f'{self.path}.{i}' if several else self.path: site for i, site in enumerate(self.call_sites)}


def find_activations(module: nn.Module, swap: dict[str, dict]) -> list[FoundActivation]:
    """All activations of the types in ``swap``, without changing anything."""
    registered = {key: MODELS.get(key) for key in swap}

    def type_of(part: nn.Module) -> str | None:
        return next((key for key in swap if type(part) is registered[key] or type(part).__name__ == key), None)

    if type_of(module):
        raise SwapError(
            'module-is-activation',
            f'the module is itself a {type_of(module)}; only the children of a module can be swapped, so build the '
            'other activation instead',
            [type_of(module)],
        )
    activations = []
    for path, owner in module.named_modules():
        types = {name: type_of(child) for name, child in owner._modules.items() if type_of(child)}
        channels = any(needs_channels(swap[key]) for key in types.values())
        for name, call_sites in _call_sites(owner, [*types], channels).items():
            full = path if isinstance(owner, CallSiteDispatcher) else f'{path}.{name}'.lstrip('.')
            activations.append(FoundActivation(full, owner, name, types[name], call_sites))
    missing = [key for key in swap if key not in {activation.type_name for activation in activations}]
    if missing:
        parts = (type(part) for part in module.modules())
        counts = Counter(part.__name__ for part in parts if part.__module__.startswith(ACTIVATION_MODULES))
        listed = ', '.join(f'{name} ({count})' for name, count in counts.items())
        raise SwapError(
            'missing-type',
            f'no {" or ".join(missing)} in {type(module).__name__}; its activations are {listed or "not modules"}',
            missing,
        )
    return activations


def _call_sites(owner: nn.Module, names: list[str], channels: bool) -> dict[str, list[CallSite] | Unresolved]:
    """Call sites of the activations that ``owner`` holds under ``names``; ``channels``: whether counts are needed."""
    if isinstance(owner, CallSiteDispatcher):
        return {name: [owner.call_sites[int(name)]] for name in names}
    container = any(isinstance(owner, base) and type(owner).forward is base.forward for base in CONTAINERS)
    if not names or (container and not channels):
        return {name: [CallSite([owner])] for name in names}
    return {
        name: [CallSite([owner])] if container and (not found or isinstance(found, Unresolved)) else found
        for name, found in find_call_sites(owner, names).items()
    }

"""Finds the activations of a model with their call sites."""

from collections import Counter
from dataclasses import dataclass

from mmcv.cnn import ConvModule
from mmdet.registry import MODELS
from torch import nn

from apa_mmdet.models.activations.base import needs_channels

from .call_sites import CallSite, CallSiteDispatcher, find_call_sites
from .errors import SwapError

ACTIVATION_FILES = {'activation', 'activations', 'swish', 'hswish', 'hsigmoid'}  # of torch, mmcv and apa_mmdet
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, ConvModule)  # an activation in one has one call site


@dataclass
class FoundActivation:
    """The activation ``module`` that ``owner`` holds under ``name``, and the config of those that replace it.

    Its call sites have names; there are none if it is never called, or if they are ``unknown`` for the given reason.
    """

    path: str
    owner: nn.Module
    name: str
    module: nn.Module
    cfg: dict
    call_sites: dict[str, CallSite]
    unknown: str


def find_activations(module: nn.Module, swap: dict[str, dict]) -> list[FoundActivation]:
    """All activations of the types in ``swap``, without changing anything."""
    registered = {key: MODELS.get(key) for key in swap}

    def type_of(part: nn.Module) -> str | None:
        return next((key for key in swap if type(part) is registered[key] or type(part).__name__ == key), None)

    if type_of(module):
        raise SwapError.of('module-is-activation', [type_of(module)])
    activations, missing = [], dict.fromkeys(swap)
    for path, owner in module.named_modules():
        types = {name: type_of(child) for name, child in owner._modules.items() if type_of(child)}
        channels = any(needs_channels(swap[key]) for key in types.values())
        for name, found in (_call_sites(owner, [*types], channels) if types else {}).items():
            missing.pop(types[name], None)
            call_sites, unknown = ([], found) if isinstance(found, str) else (found, '')
            full = f'{path}.{name}'.lstrip('.')
            names = [full] if len(call_sites) == 1 else [f'{full}.{i}' for i in range(len(call_sites))]
            at = path if isinstance(owner, CallSiteDispatcher) else full  # of the activation that was swapped before
            cfg, call_sites = swap[types[name]], dict(zip(names, call_sites))
            activations.append(FoundActivation(at, owner, name, owner._modules[name], cfg, call_sites, unknown))
    if missing:
        parts = (type(part) for part in module.modules())
        counts = Counter(part.__name__ for part in parts if ACTIVATION_FILES & {*part.__module__.split('.')})
        listed = ', '.join(f'{name} ({count})' for name, count in counts.items()) or 'not modules'
        raise SwapError.of('missing-type', missing, module=type(module).__name__, listed=listed)
    return activations


def _call_sites(owner: nn.Module, names: list[str], channels: bool) -> dict[str, list[CallSite] | str]:
    """Call sites of the activations that ``owner`` holds under ``names``; ``channels``: whether counts are needed."""
    if isinstance(owner, CallSiteDispatcher):
        return {name: [owner.call_sites[int(name)]] for name in names}
    container = any(isinstance(owner, base) and type(owner).forward is base.forward for base in CONTAINERS)
    found = {} if container and not channels else find_call_sites(owner, names)
    known = {name: sites for name, sites in found.items() if sites and not isinstance(sites, str)}
    return {name: known.get(name, [CallSite([owner])]) for name in names} if container else found

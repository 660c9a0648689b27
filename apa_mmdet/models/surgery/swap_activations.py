"""Replaces activations in any MMDetection model, from its config."""

import copy

from mmdet.registry import MODELS
from mmengine.logging import MMLogger
from torch import nn

from apa_mmdet.models.activations import build_activation
from apa_mmdet.models.activations.base import needs_channels

from .call_sites import CallSite, CallSiteDispatcher
from .errors import SwapError
from .find_activations import FoundActivation, find_activations
from .patterns import Patterns, Selection, matches
from .source_inspection import functional_calls


@MODELS.register_module('SwapActivations')
def build_swapped(
    module: dict | None = None,
    swap: dict[str, dict] | None = None,
    include: Patterns = '*',
    exclude: Patterns = (),
    **arguments,
) -> nn.Module:
    """Builds a model, or a part of one, and swaps its activations, without a wrapper; see :func:`swap_activations`.

    Args:
        module: config of the module, e.g. ``dict(type='ResNet', depth=50)``; may be another ``SwapActivations``.
        arguments: further arguments of the module. So a config that inherits the part adds only
            ``type='SwapActivations', module=dict(type=…), swap=…`` to it.

    Raises:
        SwapError: if ``module`` is not a config; see also :func:`swap_activations`.

    Example:
        >>> cfg = dict(type='SwapActivations', module=dict(type='ResNet'), swap=dict(ReLU=dict(type='AGLU')), depth=50)
        >>> len(MODELS.build(cfg).layer1[0].relu)
        3
    """
    if not isinstance(module, dict) or 'type' not in module:
        raise SwapError.of('invalid-module', given=module)
    return swap_activations(MODELS.build({**module, **arguments}), swap, include, exclude)


def swap_activations(
    module: nn.Module, swap: dict[str, dict], include: Patterns = '*', exclude: Patterns = ()
) -> nn.Module:
    """Replaces activations within ``module`` by a new one at each call site.

    A *call site* is the call of an activation after one particular layer: mmdet's Bottleneck calls its one ``relu``
    after each of three convolutions, and so has three. Everything else keeps its names and values, so that weights of
    the stock model load. An activation with one call site keeps its name (``stem.2``); several are numbered in the
    order of their calls (``layer1.0.relu.0``, ``….1``, ``….2``), as ``print(module)`` shows afterwards. An activation
    in a container (``nn.Sequential``, ``nn.ModuleList`` …) has one call site, even if the owner of the container calls
    it several times.

    Where all layers of a call site are frozen, so is its activation. An activation with norms inside should then stay
    in eval mode by its own ``train``, as ``MetaAconC`` does, because the model's freezing does not reach it.

    Two kinds of activations are not replaced, and logged: those that are never called, neither in training nor in
    evaluation (unused parameters stop distributed training), and those that code calls as a function, ``F.relu(x)``,
    as far as :func:`~.source_inspection.functional_calls` finds them.

    Args:
        module: changed in place, and returned.
        swap: config of the new activation for each type to replace, by registered or class name, e.g.
            ``dict(ReLU=dict(type='AGLU'))``. An activation with ``num_features=None``, or one that requires it, gets
            the channel count of the call site, if the channels are in dimension 1 (those of tokens are not). To give
            one type two new activations, swap twice: first those that ``include`` names, then the rest.
        include: patterns, as of file names, of what to replace: names of call sites, or of an activation for all of
            its call sites.
        exclude: patterns of what not to replace.

    Raises:
        SwapError: if a type or a pattern matches nothing, if call sites are unknown, or a channel count that is needed.
        KeyError: if a new activation is not registered.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU())
        >>> net = swap_activations(net, dict(ReLU=dict(type='AGLU', num_features=None)), exclude='3')
        >>> net[1].num_features, type(net[3]).__name__
        (8, 'ReLU')
    """
    if not isinstance(swap, dict) or not swap:
        raise SwapError.of('invalid-swap', given=swap)
    for type_name, cfg in swap.items():
        if not isinstance(cfg, dict) or 'type' not in cfg:
            raise SwapError.of('invalid-activation', [type_name], given=cfg)
    selection = Selection(include, exclude)
    activations = find_activations(module, swap)
    selected = _select(module, activations, selection)
    new = {name: _build(activation, call_site) for name, (activation, call_site) in selected.items()}
    if not new:
        raise SwapError.of('nothing-to-swap', swap, module=type(module).__name__)
    for activation in activations:  # only now, so that an error leaves the module unchanged
        call_sites = activation.call_sites
        if call_sites.keys() & new.keys():
            parts = [new[name] if name in new else copy.deepcopy(activation.module) for name in call_sites]
            replacement = CallSiteDispatcher(parts, [*call_sites.values()]) if len(parts) > 1 else parts[0]
            activation.owner._modules[activation.name] = replacement
    unused = [activation.path for activation in activations if not activation.call_sites and not activation.unknown]
    _log(module, swap, selection, len(new), unused)
    return module


def _select(module: nn.Module, activations: list[FoundActivation], selection: Selection) -> dict[str, tuple]:
    """Activation and call site by the name of each that is selected; one error for all that are unknown."""
    names = [name for activation in activations for name in activation.call_sites]
    known = dict(module=type(module).__name__, count=len(names), listed=', '.join(names[:3]) + ' …' * (len(names) > 3))
    for pattern in (*selection.include, *selection.exclude):
        if not matches([pattern], [*names, *(activation.path for activation in activations)]):
            raise SwapError.of('unmatched-pattern', [pattern], **known)
    unknown = {found.path: found for found in activations if found.unknown and selection(found.path)}
    if unknown:
        reasons = (f'{type(found.owner).__name__}.{found.name}: {found.unknown}' for found in unknown.values())
        listed = '; '.join(dict.fromkeys(reasons))
        raise SwapError.of('unknown-call-sites', unknown, reasons=listed, exclude=[*selection.exclude, *unknown])
    selected = {
        name: (activation, call_site)
        for activation in activations
        for name, call_site in activation.call_sites.items()
        if selection(name, activation.path)
    }
    unknown = {
        name: activation.cfg['type']
        for name, (activation, call_site) in selected.items()
        if call_site.num_features is None and needs_channels(activation.cfg)
    }
    if unknown:
        types = ' or '.join(dict.fromkeys(unknown.values()))
        raise SwapError.of('unknown-channels', unknown, types=types, exclude=[*selection.exclude, *unknown])
    return selected


def _build(activation: FoundActivation, call_site: CallSite) -> nn.Module:
    cfg, old = activation.cfg, activation.module
    new = build_activation(cfg, call_site.num_features)
    if hasattr(new, 'inplace') and 'inplace' not in cfg:
        new.inplace = getattr(old, 'inplace', False)  # where the old one kept its input, other code may need it
    parameters = [parameter for layer in call_site.layers for parameter in layer.parameters()]
    if parameters:
        new.to(parameters[0].device)
        if not any(parameter.requires_grad for parameter in parameters):
            new.requires_grad_(False)
    return new.train(old.training)


def _log(module: nn.Module, swap: dict[str, dict], selection: Selection, count: int, unused: list[str]) -> None:
    logger = MMLogger.get_current_instance()
    ending = f'; never called, so not swapped: {", ".join(unused)}' if unused else ''
    logger.info(f'SwapActivations: swapped at {count} call sites of {type(module).__name__}{ending}')
    for type_name in swap:
        parts = [part for path, part in module.named_modules() if selection.may_hold(path, type_name.lower())]
        places, unknown = functional_calls(parts, type_name)
        start, kept = f'SwapActivations: {type_name}', 'called as a function, and not swapped, in'
        if places:
            logger.warning(f'{start} is {kept} {", ".join(places)}')
        if unknown:
            logger.warning(f'{start} may be {kept} {", ".join(unknown)}, whose source code is unknown')

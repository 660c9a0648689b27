"""Replaces activations in any MMDetection model, from its config."""

import copy
from collections.abc import Sequence

from mmdet.registry import MODELS
from mmengine.logging import MMLogger
from torch import nn

from apa_mmdet.models.activations import build_activation
from apa_mmdet.models.activations.base import needs_channels

from .call_sites import CallSite, CallSiteDispatcher, Unresolved
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
    """Builds a model, or a part of one, and swaps its activations; see :func:`swap_activations`.

    Returns the module that ``module`` describes, without a wrapper.

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
        raise SwapError(
            'invalid-module', f"module must be a config, such as module=dict(type='ResNet'); got {module!r}"
        )
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
        module: changed in place.
        swap: config of the new activation for each type to replace, by registered or class name, e.g.
            ``dict(ReLU=dict(type='AGLU'))``. An activation with ``num_features=None``, or one that requires it, gets
            the channel count of the call site, if the channels are in dimension 1 (those of tokens are not). To give
            one type two new activations, swap twice: first those that ``include`` names, then the rest.
        include: patterns, as of file names, of what to replace: names of call sites, or of an activation for all of
            its call sites.
        exclude: patterns of what not to replace.

    Returns:
        ``module``.

    Raises:
        SwapError: if a type or a pattern matches nothing, if call sites are unknown, or a channel count that is needed.
        KeyError: if a new activation is not registered.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU())
        >>> net = swap_activations(net, dict(ReLU=dict(type='AGLU', num_features=None)), exclude='3')
        >>> net[1].num_features, type(net[3]).__name__
        (8, 'ReLU')
    """
    _check_swap(swap)
    selection = Selection.of(include, exclude)
    activations = find_activations(module, swap)
    _check_patterns(module, selection, activations)
    _check_resolved(selection, activations)
    _check_channels(swap, selection, activations)
    new = [_build_all(activation, swap[activation.type_name], selection) for activation in activations]
    if not any(new):
        raise SwapError(
            'nothing-to-swap',
            f'nothing to swap in {type(module).__name__}: every {_or(swap)} is excluded, or never called',
            swap,
        )
    for activation, parts in zip(activations, new):  # only now, so that an error leaves the module unchanged
        if parts:
            parts = [copy.deepcopy(activation.module) if part is None else part for part in parts]
            replacement = CallSiteDispatcher(parts, activation.call_sites) if len(parts) > 1 else parts[0]
            activation.owner._modules[activation.name] = replacement
    _log(module, swap, selection, activations, sum(part is not None for parts in new for part in parts))
    return module


def _or(names: Sequence[str]) -> str:
    return ' or '.join(names)


def _check_swap(swap: dict[str, dict]) -> None:
    if not isinstance(swap, dict) or not swap:
        raise SwapError(
            'invalid-swap',
            f"swap must map types to new activations, such as swap=dict(ReLU=dict(type='AGLU')); got {swap!r}",
        )
    for type_name, cfg in swap.items():
        if not isinstance(cfg, dict) or 'type' not in cfg:
            raise SwapError(
                'invalid-activation',
                f"swap={{{type_name!r}: …}} must give a config, such as dict(type='AGLU'); got {cfg!r}",
                [type_name],
            )


def _check_patterns(module: nn.Module, selection: Selection, activations: list[FoundActivation]) -> None:
    names = [name for activation in activations for name in activation.resolved]
    for pattern in (*selection.include, *selection.exclude):
        if not matches([pattern], names + [activation.path for activation in activations]):
            raise SwapError(
                'unmatched-pattern',
                f'pattern {pattern!r} matches none of the {len(names)} call sites in {type(module).__name__}, '
                f'which are {", ".join(names[:3])}{" …" * (len(names) > 3)}',
                [pattern],
            )


def _check_resolved(selection: Selection, activations: list[FoundActivation]) -> None:
    """Raises one error for all activations whose call sites are unknown."""
    unknown = [a for a in activations if isinstance(a.call_sites, Unresolved) and selection(a.path)]
    if not unknown:
        return
    reasons = dict.fromkeys(f'{type(a.owner).__name__}.{a.name}: {a.call_sites.reason}' for a in unknown)
    paths = [a.path for a in unknown]
    raise SwapError(
        'unknown-call-sites',
        f'the call sites of some activations are unknown ({"; ".join(reasons)}); keep these activations with '
        f'exclude={[*selection.exclude, *paths]}',
        paths,
    )


def _check_channels(swap: dict[str, dict], selection: Selection, activations: list[FoundActivation]) -> None:
    """Raises one error for all call sites whose channel count is needed and unknown."""
    unknown = {
        name: swap[activation.type_name]['type']
        for activation in activations
        for name, call_site in activation.resolved.items()
        if selection(name, activation.path)
        and call_site.num_features is None
        and needs_channels(swap[activation.type_name])
    }
    if unknown:
        raise SwapError(
            'unknown-channels',
            f'{_or(dict.fromkeys(unknown.values()))} needs the channel count, but the channels are not in dimension 1 '
            '(tokens), or no guessed input suits the module; set num_features=1, or keep these activations with '
            f'exclude={[*selection.exclude, *unknown]}',
            unknown,
        )


def _build_all(activation: FoundActivation, cfg: dict, selection: Selection) -> list[nn.Module | None]:
    """A new activation for each call site, None for those that keep theirs; empty if all do."""
    new = [
        _build(cfg, call_site, activation.module) if selection(name, activation.path) else None
        for name, call_site in activation.resolved.items()
    ]
    return new if any(new) else []


def _build(cfg: dict, call_site: CallSite, old: nn.Module) -> nn.Module:
    new = build_activation(cfg, call_site.num_features)
    if hasattr(new, 'inplace') and 'inplace' not in cfg:
        new.inplace = getattr(old, 'inplace', False)  # where the old one kept its input, other code may need it
    parameters = [parameter for layer in call_site.layers for parameter in layer.parameters()]
    if parameters:
        new.to(parameters[0].device)
        if not any(parameter.requires_grad for parameter in parameters):
            new.requires_grad_(False)
    return new.train(old.training)


def _log(
    module: nn.Module, swap: dict[str, dict], selection: Selection, activations: list[FoundActivation], count: int
) -> None:
    logger = MMLogger.get_current_instance()
    unused = [activation.path for activation in activations if activation.call_sites == []]
    logger.info(
        f'SwapActivations: swapped at {count} call sites of {type(module).__name__}'
        + f'; never called, so not swapped: {", ".join(unused)}' * bool(unused)
    )
    for type_name in swap:
        parts = [part for path, part in module.named_modules() if selection.may_hold(path, type_name.lower())]
        calls = functional_calls(parts, type_name)
        if calls.places:
            logger.warning(
                f'SwapActivations: {type_name} is called as a function, and not swapped, in {", ".join(calls.places)}'
            )
        if calls.unknown:
            logger.warning(
                f'SwapActivations: {type_name} may be called as a function, and not swapped, in '
                f'{", ".join(calls.unknown)}, whose source code is unknown'
            )

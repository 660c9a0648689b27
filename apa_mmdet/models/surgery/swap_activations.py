"""Other activations in any MMDetection model, from its config alone."""

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from mmcv.cnn import ConvModule
from mmdet.registry import MODELS
from mmengine.logging import MMLogger
from torch import nn

from apa_mmdet.models.activations import build_activation
from apa_mmdet.models.activations.base import needs_channels

from .call_sites import Site, Sites, find_sites
from .source_inspection import functional_calls

Patterns = str | Sequence[str]
HOMES = (  # of activations
    'torch.nn.modules.activation',
    'mmcv.cnn.bricks.activation',
    'mmcv.cnn.bricks.swish',
    'mmcv.cnn.bricks.hswish',
    'mmcv.cnn.bricks.hsigmoid',
    'apa_mmdet.models.activations',
)
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, ConvModule)  # each activation in one counts as one site


@MODELS.register_module('SwapActivations')
def build_swapped(
    module: dict | None = None,
    swap: dict[str, dict] | None = None,
    include: Patterns = '*',
    exclude: Patterns = (),
    **arguments,
) -> nn.Module:
    """Build a model, or a part of one, and swap its activations: see :func:`swap_activations`.

    What comes back is the module that ``module`` describes, with no wrapper around it.

    Args:
        module: config of the module, e.g. ``dict(type='ResNet', depth=50)``; another ``SwapActivations`` will do.
        arguments: further arguments of the module, which may as well stand here. So a config adds no more than
            ``type='SwapActivations', module=dict(type=…), swap=…`` to the part that it inherits.

    Raises:
        ValueError: if ``module`` is not a config; and see :func:`swap_activations`.

    Example:
        >>> cfg = dict(type='SwapActivations', module=dict(type='ResNet'), swap=dict(ReLU=dict(type='AGLU')), depth=50)
        >>> len(MODELS.build(cfg).layer1[0].relu)
        3
    """
    if not isinstance(module, dict) or 'type' not in module:
        raise ValueError(
            f"SwapActivations: module must be a config, such as module=dict(type='ResNet'); got {module!r}"
        )
    return swap_activations(MODELS.build({**module, **arguments}), swap, include, exclude)


def swap_activations(
    module: nn.Module, swap: dict[str, dict], include: Patterns = '*', exclude: Patterns = ()
) -> nn.Module:
    """Replace activations within ``module``, at each site by one of its own.

    A *site* is the call of an activation after one particular layer: mmdet's Bottleneck calls its one ``relu`` after
    each of three convolutions, and so has three. Everything else keeps its names and values, so that weights of the
    stock model load. An activation with one site keeps its name (``stem.2``); several follow one another in the order
    of their calls (``layer1.0.relu.0``, ``….1``, ``….2``), as ``print(module)`` shows afterwards. One in a container
    (``nn.Sequential``, ``nn.ModuleList`` …) has one site, even if what holds the container calls it several times.

    Where all layers of a site are frozen, so is its activation. One with norms inside should then stay in eval mode,
    and has to see to it in its ``train``, as ``MetaAconC`` does: the model's own freezing does not know of it.

    Two kinds stay, and the log names them: an activation that is never called, neither in training nor in evaluation
    (parameters that take no part stop distributed training), and one that code calls as a function, ``F.relu(x)``, as
    far as :func:`~.source.functional_calls` can see it.

    Args:
        module: changed in place.
        swap: recipe for each type that is to go, by its registered or class name, e.g.
            ``dict(ReLU=dict(type='AGLU'))``. One with ``num_features=None``, or for an activation that cannot do
            without, gets the channel count of the site, if that has its channels in dimension 1 (tokens have not).
            Two recipes for one type: swap twice, first the sites that ``include`` names, then the rest.
        include: patterns, as of file names, of what goes: names of sites, or of an activation for all of its sites.
        exclude: patterns of what stays nonetheless.

    Returns:
        ``module``.

    Raises:
        ValueError: if a type or a pattern matches nothing, if the sites of an activation cannot be told, or if a
            recipe needs a channel count that is not known.
        KeyError: if a recipe's activation is not registered.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU())
        >>> net = swap_activations(net, dict(ReLU=dict(type='AGLU', num_features=None)), exclude='3')
        >>> net[1].num_features, type(net[3]).__name__
        (8, 'ReLU')
    """
    _check_recipes(swap)
    choice = _Choice(_listed(include), _listed(exclude))
    places = _find(module, swap)
    _check_patterns(module, choice, places)
    _check_sites(swap, choice, places)
    new = [_build_all(place, swap[place.kind], choice) for place in places]
    if not any(new):
        raise ValueError(
            f'SwapActivations: nothing to swap in {type(module).__name__}: every {_or(swap)} is excluded, '
            'or never called'
        )
    for place, acts in zip(places, new):  # only now, so that an error leaves the module as it was
        if acts:
            old = place.owner._modules[place.name]
            acts = [copy.deepcopy(old) if act is None else act for act in acts]
            place.owner._modules[place.name] = Sites(acts, place.sites) if len(acts) > 1 else acts[0]
    _report(module, swap, choice, places, sum(act is not None for acts in new for act in acts))
    return module


@dataclass
class _Place:
    """An activation, of the type ``kind``, that ``owner`` holds under ``name``; its sites, or why they are unknown."""

    path: str
    owner: nn.Module
    name: str
    kind: str
    sites: list[Site] | str

    @property
    def named(self) -> dict[str, Site]:
        """Its sites, those that are known, by their names."""
        if isinstance(self.sites, str):
            return {}
        if isinstance(self.owner, Sites):  # swapped before, at all of its sites; this is one of them
            return {f'{self.path}.{self.name}': self.sites[0]}
        return {f'{self.path}.{i}' if len(self.sites) > 1 else self.path: site for i, site in enumerate(self.sites)}


class _Choice(NamedTuple):
    include: tuple[str, ...]
    exclude: tuple[str, ...]

    def __call__(self, *names: str) -> bool:
        return _matches(self.include, names) and not _matches(self.exclude, names)

    def may_hold(self, path: str, name: str) -> bool:
        """Whether it may name something within the part at ``path``, or what that would hold as ``name``."""
        inner = f'{path}.{name}'.lstrip('.')
        within = _matches(_holders(self.include), [path]) or _matches(self.include, [inner])
        return within and not _matches(self.exclude, [inner])


def _holders(patterns: Sequence[str]) -> list[str]:
    """Patterns of the parts around what ``patterns`` name: of ``a.b.*`` they are ``a.b``, ``a`` and the whole."""
    split = [pattern.split('.') for pattern in patterns]
    return ['.'.join(names[:depth]) for names in split for depth in range(len(names))]


def _matches(patterns: Sequence[str], names: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)


def _listed(patterns: Patterns) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _or(names: Sequence[str]) -> str:
    return ' or '.join(names)


def _check_recipes(swap: dict[str, dict]) -> None:
    if not isinstance(swap, dict) or not swap:
        raise ValueError(
            'SwapActivations: swap must say what goes and what comes, such as '
            f"swap=dict(ReLU=dict(type='AGLU')); got {swap!r}"
        )
    for kind, recipe in swap.items():
        if not isinstance(recipe, dict) or 'type' not in recipe:
            raise ValueError(
                f"SwapActivations: swap={{{kind!r}: …}} must give a recipe, such as dict(type='AGLU'); got {recipe!r}"
            )


def _find(module: nn.Module, swap: dict[str, dict]) -> list[_Place]:
    """All that may be swapped. Nothing is changed yet."""
    registered = {key: MODELS.get(key) for key in swap}

    def kind(part: nn.Module) -> str | None:
        return next((key for key in swap if type(part) is registered[key] or type(part).__name__ == key), None)

    places = []
    for path, owner in module.named_modules():
        kinds = {name: kind(child) for name, child in owner._modules.items() if kind(child)}
        for name, sites in _sites(owner, [*kinds], any(needs_channels(swap[key]) for key in kinds.values())).items():
            full = path if isinstance(owner, Sites) else f'{path}.{name}'.lstrip('.')
            places.append(_Place(full, owner, name, kinds[name], sites))
    missing = [key for key in swap if key not in {place.kind for place in places}]
    if kind(module):
        raise ValueError(
            f'SwapActivations: the module is itself a {kind(module)}, and only what a module holds can be '
            'swapped; build the other activation in its place'
        )
    if missing:
        there = Counter(type(part).__name__ for part in module.modules() if type(part).__module__.startswith(HOMES))
        listed = ', '.join(f'{name} ({count})' for name, count in there.items())
        raise ValueError(
            f'SwapActivations: no {_or(missing)} in {type(module).__name__}; '
            f'its activations are {listed or "none that are modules"}'
        )
    return places


def _sites(owner: nn.Module, names: list[str], channels: bool) -> dict[str, list[Site] | str]:
    """Of the activations that ``owner`` holds under ``names``; ``channels``: whether their counts are needed."""
    if isinstance(owner, Sites):
        return {name: [owner.sites[int(name)]] for name in names}
    once = any(isinstance(owner, kind) and type(owner).forward is kind.forward for kind in CONTAINERS)
    found = find_sites(owner, names) if names and (channels or not once) else {name: [] for name in names}
    return {
        name: [Site([owner])] if once and (not sites or isinstance(sites, str)) else sites
        for name, sites in found.items()
    }


def _check_patterns(module: nn.Module, choice: _Choice, places: list[_Place]) -> None:
    names = [name for place in places for name in place.named]
    for pattern in (*choice.include, *choice.exclude):
        if not _matches([pattern], names + [place.path for place in places]):
            raise ValueError(
                f'SwapActivations: pattern {pattern!r} matches none of the {len(names)} sites in '
                f'{type(module).__name__}, which are {", ".join(names[:3])}{" …" * (len(names) > 3)}'
            )


def _check_sites(swap: dict[str, dict], choice: _Choice, places: list[_Place]) -> None:
    """All that cannot be swapped, in one error."""
    untold = [place for place in places if isinstance(place.sites, str) and choice(place.path)]
    if untold:
        reasons = dict.fromkeys(
            f'{type(place.owner).__name__} calls its {place.name}: {place.sites}' for place in untold
        )
        raise ValueError(
            f'SwapActivations: cannot tell at how many sites {"; nor ".join(reasons)}; leave out what is '
            f'not known with exclude={[*choice.exclude, *(place.path for place in untold)]}'
        )
    blind = {
        name: swap[place.kind]['type']
        for place in places
        for name, site in place.named.items()
        if choice(name, place.path) and site.num_features is None and needs_channels(swap[place.kind])
    }
    if blind:
        raise ValueError(
            f'SwapActivations: {_or(dict.fromkeys(blind.values()))} needs the channel count, and here the '
            'channels are not in dimension 1 (tokens), or no guessed input suits; give it num_features=1, '
            f'or leave them out with exclude={[*choice.exclude, *blind]}'
        )


def _build_all(place: _Place, recipe: dict, choice: _Choice) -> list[nn.Module | None]:
    """A new activation for each site, None for those that keep theirs; empty if all do."""
    old = place.owner._modules[place.name]
    new = [_build(recipe, site, old) if choice(name, place.path) else None for name, site in place.named.items()]
    return new if any(new) else []


def _build(recipe: dict, site: Site, old: nn.Module) -> nn.Module:
    new = build_activation(recipe, site.num_features)
    if hasattr(new, 'inplace') and 'inplace' not in recipe:
        new.inplace = getattr(old, 'inplace', False)  # where the old one kept its input, somebody may need it
    parameters = [parameter for layer in site.layers for parameter in layer.parameters()]
    if parameters:
        new.to(parameters[0].device)
        if not any(parameter.requires_grad for parameter in parameters):
            new.requires_grad_(False)
    return new.train(old.training)


def _report(module: nn.Module, swap: dict[str, dict], choice: _Choice, places: list[_Place], sites: int) -> None:
    logger = MMLogger.get_current_instance()
    unused = [place.path for place in places if place.sites == []]
    logger.info(
        f'SwapActivations: swapped at {sites} sites of {type(module).__name__}'
        + f'; never called, so left as they are: {", ".join(unused)}' * bool(unused)
    )
    for kind in swap:
        parts = [part for path, part in module.named_modules() if choice.may_hold(path, kind.lower())]
        seen = functional_calls(parts, kind)
        if seen.places:
            logger.warning(f'SwapActivations: {", ".join(seen.places)}: {kind} called as a function, which stays')
        if seen.unknown:
            logger.warning(
                f'SwapActivations: {", ".join(seen.unknown)}: {kind} may be called as a function, which '
                'stays; the source code is not there to see'
            )

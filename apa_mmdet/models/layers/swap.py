"""Other activations in any MMDetection model, from its config alone."""
import copy
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from mmcv.cnn import ConvModule
from mmdet.registry import MODELS
from mmengine.logging import MMLogger
from torch import nn

from ..activations import build_activation
from ..activations.base import needs_channels
from .sites import Site, Sites, find_sites
from .source import functional_calls

Patterns = Union[str, Sequence[str]]
HOMES = ('torch.nn.modules.activation', 'mmcv.cnn.bricks.activation', 'mmcv.cnn.bricks.swish',
         'mmcv.cnn.bricks.hswish', 'mmcv.cnn.bricks.hsigmoid', 'apa_mmdet.models.activations')  # of activations
ONCE = (nn.Sequential.forward, nn.ModuleList.forward, ConvModule.forward)  # these call each activation at one site


@MODELS.register_module('SwapActivations')
def build_swapped(module: dict, swap: Dict[str, dict], include: Patterns = '*', exclude: Patterns = (),
                  **arguments) -> nn.Module:
    """Build a model, or a part of one, and swap its activations: see :func:`swap_activations`.

    What comes back is the module that ``module`` describes, with no wrapper around it.

    Args:
        module: config of the module, e.g. ``dict(type='ResNet', depth=50)``.
        arguments: further arguments of the module, which may as well stand here. So a config adds no more than
            ``type='SwapActivations', module=dict(type=…), swap=…`` to the part that it inherits.

    Example:
        >>> cfg = dict(type='SwapActivations', module=dict(type='ResNet'), swap=dict(ReLU=dict(type='AGLU')), depth=50)
        >>> len(MODELS.build(cfg).layer1[0].relu)
        3
    """
    return swap_activations(MODELS.build({**module, **arguments}), swap, include, exclude)


def swap_activations(module: nn.Module, swap: Dict[str, dict], include: Patterns = '*',
                     exclude: Patterns = ()) -> nn.Module:
    """Replace activations within ``module``, at each site by one of its own.

    A *site* is the call of an activation after one particular layer: mmdet's Bottleneck calls its one ``relu`` after
    each of three convolutions, and so has three. Everything else keeps its names and values, so that weights of the
    stock model load. An activation with one site keeps its name (``stem.2``); several follow one another in the order
    of their calls (``layer1.0.relu.0``, ``….1``, ``….2``). Where all layers of a site are frozen, so is its activation.

    Two kinds stay, and the log names them: an activation that is never called (parameters that take no part stop
    distributed training), and one that code calls as a function, ``F.relu(x)``.

    Args:
        module: changed in place.
        swap: recipe for each type that is to go, by its registered or class name, e.g.
            ``dict(ReLU=dict(type='AGLU'))``. One with ``num_features=None``, or for an activation that cannot do
            without, gets the channel count of the site, if that has its channels in dimension 1 (tokens have not).
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
    for kind, recipe in swap.items():
        if not isinstance(recipe, dict) or 'type' not in recipe:
            raise ValueError(f"SwapActivations: swap={{{kind!r}: …}} must give a recipe, such as dict(type='AGLU'); "
                             f'got {recipe!r}')
    choice = _Choice(_listed(include), _listed(exclude))
    places = _find(module, swap)
    _check(module, choice, places)
    new = [_build_all(place, swap[place.kind], choice) for place in places]
    if not any(new):
        raise ValueError(f'SwapActivations: nothing to swap in {type(module).__name__}: every {_or(swap)} is excluded, '
                         'or never called')
    for place, acts in zip(places, new):  # only now, so that an error leaves the module as it was
        if acts:
            old = place.owner._modules[place.name]
            acts = [copy.deepcopy(old) if act is None else act for act in acts]
            place.owner._modules[place.name] = Sites(acts, place.sites) if len(acts) > 1 else acts[0]
    _report(module, swap, choice, places, sum(act is not None for acts in new for act in acts))
    return module


@dataclass
class _Place:
    """An activation, of the type ``kind``, that ``owner`` holds under ``name``; its sites, None if they are unknown."""

    path: str
    owner: nn.Module
    name: str
    kind: str
    sites: Optional[List[Site]]

    @property
    def names(self) -> List[str]:
        """Of its sites."""
        count = len(self.sites or ())
        return [f'{self.path}.{i}' for i in range(count)] if count > 1 else [self.path]


class _Choice(NamedTuple):
    include: Tuple[str, ...]
    exclude: Tuple[str, ...]

    def __call__(self, *names: str) -> bool:
        return _matches(self.include, names) and not _matches(self.exclude, names)


def _matches(patterns: Sequence[str], names: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)


def _listed(patterns: Patterns) -> Tuple[str, ...]:
    return (patterns, ) if isinstance(patterns, str) else tuple(patterns)


def _or(names: Sequence[str]) -> str:
    return ' or '.join(names)


def _find(module: nn.Module, swap: Dict[str, dict]) -> List[_Place]:
    """All that may be swapped. Nothing is changed yet."""
    registered = {key: MODELS.get(key) for key in swap}
    places = []
    for path, owner in module.named_modules():
        kinds = {name: key for name, child in owner._modules.items() for key in swap
                 if type(child) is registered[key] or type(child).__name__ == key}
        sites = dict.fromkeys(kinds, [Site([owner])]) if type(owner).forward in ONCE else {}
        if kinds and (not sites or any(needs_channels(swap[key]) for key in kinds.values())):
            sites.update((name, found) for name, found in find_sites(owner, list(kinds)).items()
                         if found or name not in sites)
        places += [_Place(f'{path}.{name}' if path else name, owner, name, kinds[name], sites[name]) for name in kinds]
    missing = [key for key in swap if key not in {place.kind for place in places}]
    if missing or not swap:
        there = Counter(type(part).__name__ for part in module.modules() if type(part).__module__.startswith(HOMES))
        listed = ', '.join(f'{name} ({count})' for name, count in there.items())
        raise ValueError(f'SwapActivations: no {_or(missing) or "swap=dict(…) given"} in {type(module).__name__}; '
                         f'its activations are {listed or "none that are modules"}')
    return places


def _check(module: nn.Module, choice: _Choice, places: List[_Place]) -> None:
    names = [name for place in places for name in place.names]
    for pattern in (*choice.include, *choice.exclude):
        if not _matches([pattern], names + [place.path for place in places]):
            raise ValueError(f'SwapActivations: pattern {pattern!r} matches none of the {len(names)} sites in '
                             f'{type(module).__name__}, which are {", ".join(names[:3])}{" …" * (len(names) > 3)}')


def _build_all(place: _Place, recipe: dict, choice: _Choice) -> List[Optional[nn.Module]]:
    """A new activation for each site, None for those that keep theirs; empty if all do."""
    if place.sites is None and choice(place.path):
        raise ValueError(f'SwapActivations: cannot tell at how many sites {type(place.owner).__name__} calls '
                         f'{place.path}, for no guessed input suits it; leave it out with exclude={place.path!r}')
    wanted = [choice(name, place.path) for name, _ in zip(place.names, place.sites or ())]
    old = place.owner._modules[place.name]
    return [_build(recipe, site, name, old) if want else None
            for name, site, want in zip(place.names, place.sites, wanted)] if any(wanted) else []


def _build(recipe: dict, site: Site, name: str, old: nn.Module) -> nn.Module:
    if site.num_features is None and needs_channels(recipe):
        raise ValueError(f'SwapActivations: {recipe["type"]} needs the channel count at {name}, where the channels are '
                         'not in dimension 1 (tokens), or no guessed input suits; give it num_features=1, or leave it '
                         f'out with exclude={name!r}')
    new = build_activation(recipe, site.num_features)
    if hasattr(new, 'inplace') and 'inplace' not in recipe:
        new.inplace = getattr(old, 'inplace', False)  # where the old one kept its input, somebody may need it
    parameters = [parameter for layer in site.layers for parameter in layer.parameters()]
    if parameters:
        new.to(parameters[0].device)
        if not any(parameter.requires_grad for parameter in parameters):
            new.requires_grad_(False)
    return new.train(old.training)


def _report(module: nn.Module, swap: Dict[str, dict], choice: _Choice, places: List[_Place], sites: int) -> None:
    logger = MMLogger.get_current_instance()
    unused = [place.path for place in places if place.sites == []]
    logger.info(f'SwapActivations: swapped at {sites} sites of {type(module).__name__}'
                + f'; never called, so left as they are: {", ".join(unused)}' * bool(unused))
    for kind in swap:
        parts = [part for path, part in module.named_modules() if choice(f'{path}.{kind.lower()}'.lstrip('.'))]
        seen = functional_calls(parts, kind)
        if seen.places:
            logger.warning(f'SwapActivations: {", ".join(seen.places)}: {kind} called as a function, which stays')
        if seen.unknown:
            logger.warning(f'SwapActivations: {", ".join(seen.unknown)}: {kind} may be called as a function, which '
                           'stays; the source code is not there to see')

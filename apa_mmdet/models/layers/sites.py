"""The sites of an activation: the calls of it, told apart by the layer that ran before.

A layer, here, is a module with parameters of its own. Counting calls would go wrong where a part of a forward pass is
run again (gradient checkpointing), or several times (a head over the levels of a pyramid); what ran before stays true.
"""
from dataclasses import dataclass
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from torch import Size, Tensor, nn

from .source import count_uses


@dataclass
class Site:
    """One place where a forward pass activates.

    Args:
        layers: those that ran since the activation was called before; the last one tells the site.
        num_features: channel count there; None if unknown, or if the channels are not in dimension 1.
    """

    layers: List[nn.Module]
    num_features: Optional[int] = None


class Sites(nn.ModuleList):
    """Stands for an activation that is called at several sites, and calls the one of the site.

    Args:
        activations: one for each site.
        sites: as many; their layers get a hook that says which site comes next.
    """

    def __init__(self, activations: Sequence[nn.Module], sites: Sequence[Site]) -> None:
        super().__init__(activations)
        self.current: Optional[int] = None
        before = {site.layers[-1]: i for i, site in enumerate(sites)}
        for i, site in enumerate(sites):
            for layer in site.layers:  # all, for a norm may go when it is folded into its convolution
                before.setdefault(layer, i)
        for layer, i in before.items():
            layer.register_forward_hook(_Next(self, i))

    def forward(self, x: Tensor) -> Tensor:
        if self.current is None:
            raise RuntimeError('Sites: called before any of the layers that it was made for; were they exchanged?')
        return self[self.current](x)


class _Next:
    """Hook that says which site comes next; no closure, so that copies of the model are independent."""

    def __init__(self, sites: Sites, index: int) -> None:
        self.sites = sites
        self.index = index

    def __call__(self, *_) -> None:
        self.sites.current = self.index


def find_sites(owner: nn.Module, names: Sequence[str]) -> Dict[str, Optional[List[Site]]]:
    """The sites of the activations that ``owner`` holds under ``names``; None for one whose sites cannot be told."""
    calls = _run(owner, names)
    if calls is not None:
        return {name: _tell_apart(calls[name]) for name in names}
    once = {0: [], 1: [Site([owner])]}  # by name alone, if no input suits the owner
    return {name: once.get(count_uses(owner, name)) for name in names}


def _tell_apart(calls: List[Tuple[List[nn.Module], Size]]) -> Optional[List[Site]]:
    """From each call's layers and shape, the sites in the order of their first call."""
    sites, last = {}, None
    for layers, shape in calls:
        last = layers[-1] if layers else last
        sites.setdefault(last, Site(layers, _channels(shape, last)))
    return None if None in sites and len(sites) > 1 else list(sites.values())


def _channels(shape: Size, last: Optional[nn.Module]) -> Optional[int]:
    """Of a feature map, or of a batch of vectors; behind a linear layer more dimensions are tokens, channels last."""
    tokens = len(shape) == 3 or len(shape) > 3 and isinstance(last, nn.Linear)
    return None if tokens or len(shape) < 2 else shape[1]


class _Probe(nn.Module):
    """Activates as before, and records what ran since it did so last."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation
        self.clear()

    def clear(self) -> None:
        self.ran: list = []
        self.calls: List[Tuple[List[nn.Module], Size]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append((self.ran, x.shape))
        self.ran = []
        return self.activation(x)


def _run(owner: nn.Module, names: Sequence[str]) -> Optional[Dict[str, list]]:
    """Each activation's calls in a forward pass of zeros, in eval mode; None if no guessed input suits the owner."""
    kept = {name: owner._modules[name] for name in names}
    probes = {name: _Probe(activation) for name, activation in kept.items()}
    modes = {part: part.training for part in owner.modules()}
    layers = [part for part in modes if part not in {owner, *kept.values()}
              and next(part.parameters(recurse=False), None) is not None]

    def note(layer: nn.Module, *_) -> None:
        for probe in probes.values():
            probe.ran.append(layer)

    hooks = [layer.register_forward_hook(note) for layer in layers]
    owner._modules.update(probes)
    try:
        for part in owner.modules():
            part.training = False  # eval() is overridden here and there
        for x in _inputs(owner):
            for probe in probes.values():
                probe.clear()
            try:
                with torch.no_grad():
                    owner(x)
            except Exception:  # whatever a module does with an input that does not suit it
                continue
            return {name: probe.calls for name, probe in probes.items()}
        return None
    finally:
        owner._modules.update(kept)
        for hook in hooks:
            hook.remove()
        for part, mode in modes.items():
            part.training = mode


def _inputs(owner: nn.Module) -> Iterator:
    """What the owner may take: feature maps of each branch, of a pyramid, one, a RoI's, tokens, or vectors."""
    like = next(owner.parameters(), torch.empty(0))
    channels = getattr(owner, 'in_channels', None)
    if isinstance(channels, (list, tuple)):
        yield [like.new_zeros(1, count, 32 >> i, 32 >> i) for i, count in enumerate(channels)]
        return
    if not isinstance(channels, int):
        counts = (getattr(part, key, None) for part in owner.modules() for key in ('in_channels', 'in_features'))
        channels = next((count for count in counts if isinstance(count, int)), None)
    if channels is None:
        return
    roi = getattr(owner, 'roi_feat_size', None)
    for side in [roi] if roi else [8, 64]:
        x = like.new_zeros(1, channels, *(side if isinstance(side, tuple) else (side, side)))
        yield (x, )
        yield x
    yield like.new_zeros(1, 4, channels)
    yield like.new_zeros(1, channels)

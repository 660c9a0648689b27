"""The sites of an activation: the calls of it, told apart by the layer that ran before.

A layer, here, is a module with parameters of its own. Counting calls would go wrong where a part of a forward pass is
run again (gradient checkpointing), or several times (a head over the levels of a pyramid); what ran before stays true.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product

import torch
from torch import Size, Tensor, nn

from .source_inspection import count_uses

COUNTS = ('out_channels', 'num_features', 'out_features', 'num_channels')  # where layers keep their channel count


@dataclass
class Site:
    """One place where a forward pass activates.

    Args:
        layers: those that ran since the activation was called before; the last one tells the site.
        num_features: channel count there; None if unknown, or if the channels are not in dimension 1.
        after: name of the last layer.
        again: whether it may be called anew with no layer in between.
    """

    layers: list[nn.Module]
    num_features: int | None = None
    after: str = ''
    again: bool = False


class Sites(nn.ModuleList):
    """Stands for an activation that is called at several sites, and calls the one of the site.

    Args:
        activations: one for each site.
        sites: as many; their layers get a hook that says which site comes next. Who exchanges a layer (a norm, to
            synchronise it) loses the hook, and gets an error if no other layer of the site is left.
    """

    __repr__ = nn.Module.__repr__  # nn.ModuleList's shows no extra_repr

    def __init__(self, activations: Sequence[nn.Module], sites: Sequence[Site]) -> None:
        super().__init__(activations)
        self.sites = list(sites)
        self.current: int | None = None
        before = {site.layers[-1]: i for i, site in enumerate(sites)}
        for i, site in enumerate(sites):
            for layer in site.layers:  # all, for a norm may go when it is folded into its convolution
                before.setdefault(layer, i)
        for layer, i in before.items():
            layer.register_forward_hook(_Next(self, i))

    def forward(self, x: Tensor) -> Tensor:
        index = self.current
        if index is None:
            raise RuntimeError(
                'Sites: called with none of its layers before, which are '
                f'{", ".join(site.after for site in self.sites)}; if one was exchanged after '
                'SwapActivations (a norm, by sync_bn?), give it its final type in the config'
            )
        if not self.sites[index].again:
            self.current = None  # lest the next site is taken for this one
        return self[index](x)

    def extra_repr(self) -> str:
        return '\n'.join(f'{i} after {site.after}' for i, site in enumerate(self.sites))


class _Next:
    """Hook that says which site comes next; no closure, so that copies of the model are independent."""

    def __init__(self, sites: Sites, index: int) -> None:
        self.sites = sites
        self.index = index

    def __call__(self, *_) -> None:
        self.sites.current = self.index


def find_sites(owner: nn.Module, names: Sequence[str]) -> dict[str, list[Site] | str]:
    """The sites of the activations that ``owner`` holds under ``names``; or, in words, why they cannot be told."""
    runs, error = _runs(owner, names)
    if runs:
        layers = {layer: name for name, layer in owner.named_modules()}
        return {name: _tell_apart([run[name] for run in runs], layers) for name in names}
    why = f'no guessed input suits it ({error})'
    once = {0: [], 1: [Site([owner])]}  # by name alone, then
    return {name: once.get(count_uses(owner, name), why) for name in names}


Call = tuple[list[nn.Module], Size]  # the layers before, the input's shape


def _tell_apart(runs: Sequence[list[Call]], names: dict[nn.Module, str]) -> list[Site] | str:
    """The sites in the order of their first call."""
    sites = {}
    for calls in runs:
        last = None
        for layers, shape in calls:
            last = layers[-1] if layers else last
            site = sites.setdefault(last, Site(layers, _channels(shape, layers), names.get(last, '')))
            site.again |= not layers
    return 'it is called before any layer' if None in sites and len(sites) > 1 else list(sites.values())


def _channels(shape: Size, layers: list[nn.Module]) -> int | None:
    """Size of dimension 1, unless the channels, as counted by the last layer that tells, are in the last dimension."""
    if len(shape) < 3:
        return shape[1] if len(shape) == 2 else None
    for layer in reversed(layers):
        counts = {*getattr(layer, 'normalized_shape', ())[-1:], *(getattr(layer, key, None) for key in COUNTS)}
        first, last = shape[1] in counts, shape[-1] in counts
        if last and (not first or isinstance(layer, (nn.Linear, nn.LayerNorm))):
            return None
        if first:
            return shape[1]
    return shape[1] if len(shape) > 3 else None  # of three dimensions the last one, as of tokens


class _Probe(nn.Module):
    """Activates as before, and records what ran since it did so last."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation
        self.clear()

    def clear(self) -> None:
        self.ran: list = []
        self.calls: list[Call] = []

    @property
    def count(self) -> int:
        """Of the layers that ran."""
        return len(self.ran) + sum(len(layers) for layers, _ in self.calls)

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append((self.ran, x.shape))
        self.ran = []
        return self.activation(x)


def _runs(owner: nn.Module, names: Sequence[str]) -> tuple[list[dict[str, list[Call]]], str]:
    """Each activation's calls in a forward pass of zeros, in train and in eval mode; the error of the best guess."""
    runs, error, furthest = [], 'none could be made', 0
    devices = [part.device for part in owner.parameters() if part.is_cuda][:1]
    with _probes(owner, names) as probes, torch.no_grad(), torch.random.fork_rng(devices):
        for training in (True, False):
            for part in owner.modules():  # train() is overridden here and there
                part.training = training and not hasattr(part, 'running_mean')
            for inputs in _inputs(owner):
                for probe in probes.values():
                    probe.clear()
                try:
                    owner(*inputs)
                except Exception as wrong:  # whatever a module does with an input that does not suit it
                    if probe.count >= furthest:
                        furthest = probe.count
                        error = f'{type(wrong).__name__}: {wrong}'.partition('\n')[0]
                else:
                    runs.append({name: probe.calls for name, probe in probes.items()})
                    break
    return runs, error


@contextmanager
def _probes(owner: nn.Module, names: Sequence[str]) -> Iterator[dict[str, _Probe]]:
    """In place of the activations, told of each layer that runs; afterwards all is as it was."""
    kept = {name: owner._modules[name] for name in names}
    probes = {name: _Probe(activation) for name, activation in kept.items()}
    modes = {part: part.training for part in owner.modules()}

    def note(layer: nn.Module, *_) -> None:
        for probe in probes.values():
            probe.ran.append(layer)

    hooks = [
        part.register_forward_hook(note)
        for part in modes
        if part not in {owner, *kept.values()} and next(part.parameters(recurse=False), None) is not None
    ]
    owner._modules.update(probes)
    try:
        yield probes
    finally:
        owner._modules.update(kept)
        for hook in hooks:
            hook.remove()
        for part, mode in modes.items():
            part.training = mode


def _inputs(owner: nn.Module) -> Iterator[tuple]:
    """What forward may take: a map of each branch; else one or two of a pyramid, a map, tokens, a vector …"""
    like = next(owner.parameters(), torch.empty(0))
    branches = getattr(owner, 'in_channels', None)
    if isinstance(branches, (list, tuple)):
        yield ([like.new_zeros(1, channels, 32 >> i, 48 >> i) for i, channels in enumerate(branches)],)
        return
    parameters = inspect.signature(owner.forward).parameters.values()
    arity = sum(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters) or 1
    for channels, (height, width) in _sizes(owner) if arity < 3 else ():
        shapes = (  # a map, tokens, a vector, tokens of layers, a mask, points
            (1, channels, height, width),
            (1, 13, channels),
            (1, channels),
            (1, 1, 13, channels),
            (1, 2 * height, 2 * width),
            (1, 13, 2),
        )
        guesses = [like.new_zeros(shape) for shape in shapes]
        yield from product([(guesses[0],), *guesses], repeat=arity)


def _sizes(owner: nn.Module) -> Iterator[tuple[int, tuple[int, int]]]:
    """Channel counts, each with height and width: a RoI's; or a small map's, unequal lest they pass for channels."""
    roi = getattr(owner, 'roi_feat_size', None) or getattr(owner, 'input_feat_shape', None)
    counts = ([getattr(part, key, None) for part in owner.modules()] for key in ('in_channels', 'in_features'))
    first = (next((count for count in some if isinstance(count, int)), None) for some in counts)
    for channels in dict.fromkeys(count for count in first if count):
        if roi:
            yield channels, (roi, roi) if isinstance(roi, int) else tuple(roi)
        else:
            yield from product([channels], [(7, 11), (14, 14), (32, 48), *([(128, 192)] if channels < 5 else ())])

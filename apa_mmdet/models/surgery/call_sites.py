"""Finds the call sites of an activation, each identified by the layer that runs before the call.

A *layer* here is a module with parameters of its own. Counting calls would fail where a part of a forward pass is run
again (gradient checkpointing) or several times (a head over the levels of a pyramid); the layer before stays the same.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
from torch import Size, Tensor, nn

from apa_mmdet.utils.errors import one_line

from .source_inspection import count_uses

CHANNEL_ATTRIBUTES = ('out_channels', 'num_features', 'out_features', 'num_channels')  # of layers


@dataclass
class CallSite:
    """One place in a forward pass where an activation is called.

    Args:
        layers: those that ran since the previous call of the activation; the last one identifies the call site.
        num_features: channel count there; None if unknown, or if the channels are not in dimension 1.
        layer_name: name of the last layer.
        repeats: whether the activation may be called again with no layer in between.
    """

    layers: list[nn.Module]
    num_features: int | None = None
    layer_name: str = ''
    repeats: bool = False


class Unresolved(NamedTuple):
    """Why the call sites of an activation are unknown: ``called-before-layers`` or ``no-suitable-input``."""

    code: str
    reason: str


class CallSiteDispatcher(nn.ModuleList):
    """Replaces an activation that is called at several call sites; calls the activation of the current one.

    Args:
        activations: one for each call site.
        call_sites: as many. Each of their layers gets a hook that selects the call site that follows. A layer that is
            replaced later (a norm, by its synchronized version) loses the hook; the call is an error if no other layer
            of the call site is left.
    """

    __repr__ = nn.Module.__repr__  # nn.ModuleList's shows no extra_repr

    def __init__(self, activations: Sequence[nn.Module], call_sites: Sequence[CallSite]) -> None:
        super().__init__(activations)
        self.call_sites = list(call_sites)
        self.current: int | None = None
        index_after = {call_site.layers[-1]: i for i, call_site in enumerate(call_sites)}
        for i, call_site in enumerate(call_sites):
            for layer in call_site.layers:  # all of them: a norm disappears when it is folded into its convolution
                index_after.setdefault(layer, i)
        for layer, i in index_after.items():
            layer.register_forward_hook(_SelectCallSite(self, i))

    def forward(self, x: Tensor) -> Tensor:
        index = self.current
        if index is None:
            raise RuntimeError(
                f'{type(self).__name__}: called, but none of its layers ran before, which are '
                f'{", ".join(call_site.layer_name for call_site in self.call_sites)}; if one was replaced after '
                'SwapActivations (a norm, by sync_bn?), give it its final type in the config'
            )
        if not self.call_sites[index].repeats:
            self.current = None  # or a call after a replaced layer would use this activation
        return self[index](x)

    def extra_repr(self) -> str:
        return '\n'.join(f'{i} after {call_site.layer_name}' for i, call_site in enumerate(self.call_sites))


class _SelectCallSite:
    """Forward hook that selects the next call site; not a closure, so that copies of the model are independent."""

    def __init__(self, dispatcher: CallSiteDispatcher, index: int) -> None:
        self.dispatcher = dispatcher
        self.index = index

    def __call__(self, *_) -> None:
        self.dispatcher.current = self.index


def find_call_sites(owner: nn.Module, names: Sequence[str]) -> dict[str, list[CallSite] | Unresolved]:
    """Finds the call sites of the activations that ``owner`` holds under ``names``, or why they are unknown."""
    runs, error = _record_runs(owner, names)
    if runs:
        layer_names = {layer: name for name, layer in owner.named_modules()}
        return {name: _call_sites([run[name] for run in runs], layer_names) for name in names}
    unresolved = Unresolved('no-suitable-input', f'no guessed input suits it ({error})')
    by_uses = {0: [], 1: [CallSite([owner])]}  # its source code is all there is to go by
    return {name: by_uses.get(count_uses(owner, name), unresolved) for name in names}


Call = tuple[list[nn.Module], Size]  # the layers that ran before, and the shape of the input


def _call_sites(runs: Sequence[list[Call]], layer_names: dict[nn.Module, str]) -> list[CallSite] | Unresolved:
    """The call sites in the order of their first call."""
    call_sites = {}
    for calls in runs:
        last = None
        for layers, shape in calls:
            last = layers[-1] if layers else last
            new = CallSite(layers, _channels(shape, layers), layer_names.get(last, ''))
            call_sites.setdefault(last, new).repeats |= not layers
    if None in call_sites and len(call_sites) > 1:
        return Unresolved('called-before-layers', 'it is called before any layer')
    return list(call_sites.values())


def _channels(shape: Size, layers: list[nn.Module]) -> int | None:
    """Size of dimension 1; None if the last layer whose channel count occurs in ``shape`` has it in another one."""
    if len(shape) < 3:
        return shape[1] if len(shape) == 2 else None
    for layer in reversed(layers):
        attributes = (getattr(layer, key, None) for key in CHANNEL_ATTRIBUTES)
        counts = {*getattr(layer, 'normalized_shape', ())[-1:], *attributes}
        first, last = shape[1] in counts, shape[-1] in counts
        if last and (not first or isinstance(layer, (nn.Linear, nn.LayerNorm))):
            return None
        if first:
            return shape[1]
    return shape[1] if len(shape) > 3 else None  # three dimensions are those of tokens, with the channels last


class _Recorder(nn.Module):
    """Calls the activation that it replaces, and records the layers that ran since its previous call."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation
        self.clear()

    def clear(self) -> None:
        self.layers: list = []
        self.calls: list[Call] = []

    @property
    def num_layers(self) -> int:
        """Number of layers that ran."""
        return len(self.layers) + sum(len(layers) for layers, _ in self.calls)

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append((self.layers, x.shape))
        self.layers = []
        return self.activation(x)


def _record_runs(owner: nn.Module, names: Sequence[str]) -> tuple[list[dict[str, list[Call]]], str]:
    """Calls of each activation in forward passes of zeros, in train and in eval mode; the error of the best guess."""
    runs, error, furthest = [], 'none could be made', 0
    devices = [part.device for part in owner.parameters() if part.is_cuda][:1]
    with _recorders(owner, names) as recorders, torch.no_grad(), torch.random.fork_rng(devices):
        for training in (True, False):
            for part in owner.modules():  # not train(), which some modules override
                part.training = training and not hasattr(part, 'running_mean')
            for inputs in _guess_inputs(owner):
                for recorder in recorders.values():
                    recorder.clear()
                try:
                    owner(*inputs)
                except Exception as raised:  # an unsuitable input may raise anything
                    reached = max(recorder.num_layers for recorder in recorders.values())
                    if reached >= furthest:
                        furthest, error = reached, one_line(raised)
                else:
                    runs.append({name: recorder.calls for name, recorder in recorders.items()})
                    break
    return runs, error


@contextmanager
def _recorders(owner: nn.Module, names: Sequence[str]) -> Iterator[dict[str, _Recorder]]:
    """Puts recorders in place of the activations and hooks on the layers; restores ``owner`` afterwards."""
    activations = {name: owner._modules[name] for name in names}
    recorders = {name: _Recorder(activation) for name, activation in activations.items()}
    modes = {part: part.training for part in owner.modules()}

    def record(layer: nn.Module, *_) -> None:
        for recorder in recorders.values():
            recorder.layers.append(layer)

    hooks = [
        part.register_forward_hook(record)
        for part in modes
        if part not in {owner, *activations.values()} and next(part.parameters(recurse=False), None) is not None
    ]
    owner._modules.update(recorders)
    try:
        yield recorders
    finally:
        owner._modules.update(activations)
        for hook in hooks:
            hook.remove()
        for part, mode in modes.items():
            part.training = mode


def _guess_inputs(owner: nn.Module) -> Iterator[tuple]:
    """Inputs that forward may accept: a map for each branch; else one or two of a pyramid, a map, tokens, a vector …"""
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
    """Channel counts, each with height and width of a RoI or of a map, unequal so as not to look like channels."""
    roi = getattr(owner, 'roi_feat_size', None) or getattr(owner, 'input_feat_shape', None)
    counts = ([getattr(part, key, None) for part in owner.modules()] for key in ('in_channels', 'in_features'))
    first = (next((count for count in some if isinstance(count, int)), None) for some in counts)
    for channels in dict.fromkeys(count for count in first if count):
        if roi:
            yield channels, (roi, roi) if isinstance(roi, int) else tuple(roi)
        else:
            yield from product([channels], [(7, 11), (14, 14), (32, 48), *([(128, 192)] if channels < 5 else ())])

"""Finds the call sites of an activation, each identified by the layer that runs before the call.

A *layer* here is a module with parameters of its own. Counting calls would fail where a part of a forward pass is run
again (gradient checkpointing) or several times (a head over the levels of a pyramid); the layer before stays the same.
"""

import copy
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from mmengine.utils import to_2tuple
from torch import Size, Tensor, nn

from apa_mmdet.utils.errors import one_line

from .source_inspection import count_uses


@dataclass
class CallSite:
    """One place in a forward pass where an activation is called."""

    layers: list[nn.Module]  # those that ran since the previous call; the last one identifies the call site
    num_features: int | None = None  # channel count; None if unknown, or if the channels are not in dimension 1
    layer_name: str = ''  # of the last layer
    repeats: bool = False  # whether the activation may be called again with no layer in between


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
            layer.register_forward_hook(partial(self._select, i))  # no closure: copies of the model are independent

    def _select(self, index: int, *_) -> None:
        self.current = index

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


def find_call_sites(owner: nn.Module, names: Sequence[str]) -> dict[str, list[CallSite] | str]:
    """Finds the call sites of the activations that ``owner`` holds under ``names``, or why they are unknown."""
    runs, error = _run(owner, names)
    if runs:
        return {name: _call_sites(owner, runs, name) for name in names}
    by_uses = {0: [], 1: [CallSite([owner])]}  # its source code is all there is to go by
    return {name: by_uses.get(count_uses(owner, name), f'no guessed input suits it ({error})') for name in names}


Event = nn.Module | tuple[str, Size]  # a layer that ran, or the name of an activation and the shape of its input


def _call_sites(owner: nn.Module, runs: Sequence[list[Event]], name: str) -> list[CallSite] | str:
    """The call sites of an activation in the order of their first call."""
    layer_names = {layer: key for key, layer in owner.named_modules()}
    call_sites = {}
    for events in runs:
        layers, last = [], None
        for event in events:
            if isinstance(event, nn.Module):
                layers.append(event)
            elif event[0] == name:
                last = layers[-1] if layers else last
                new = CallSite(layers, _channels(event[1], layers), layer_names.get(last, ''))
                call_sites.setdefault(last, new).repeats |= not layers
                layers = []
    if None in call_sites and len(call_sites) > 1:
        return 'it is called before any layer'
    return list(call_sites.values())


def _channels(shape: Size, layers: list[nn.Module]) -> int | None:
    """Size of dimension 1; None if the last layer whose channel count occurs in ``shape`` has it in another one."""
    if len(shape) < 3:
        return shape[1] if len(shape) == 2 else None
    for layer in reversed(layers):
        counts = {parameter.shape[0] for parameter in layer.parameters(recurse=False) if parameter.dim()}
        first, last = shape[1] in counts, shape[-1] in counts
        if last and (not first or isinstance(layer, (nn.Linear, nn.LayerNorm))):
            return None
        if first:
            return shape[1]
    return shape[1] if len(shape) > 3 else None  # three dimensions are those of tokens, with the channels last


def _run(owner: nn.Module, names: Sequence[str]) -> tuple[list[list[Event]], str]:
    """Events of passes of zeros through a copy, in train and in eval mode; the error of the best guess."""
    events, runs, error, furthest = [], [], 'none could be made', 0
    try:
        copied = copy.deepcopy(owner)
    except Exception as raised:  # torch.nn.utils.weight_norm leaves tensors that cannot be copied
        return [], one_line(raised)
    skipped = {owner, *(owner._modules[name] for name in names)}
    for layer, part in zip(owner.modules(), copied.modules()):
        if layer not in skipped and next(layer.parameters(recurse=False), None) is not None:
            part.register_forward_hook(lambda *_, layer=layer: events.append(layer))
    for name in names:  # in a container of its own, because other parts may have the same activation
        copied._modules[name] = nn.Sequential(copied._modules[name])
        copied._modules[name].register_forward_pre_hook(lambda _, x, name=name: events.append((name, x[0].shape)))
    devices = [part.device for part in owner.parameters() if part.is_cuda][:1]
    with torch.no_grad(), torch.random.fork_rng(devices):
        for training in (True, False):
            for part in copied.modules():  # not train(), which some modules override; norms refuse single values
                part.training = training and not hasattr(part, 'running_mean')
            for inputs in _guess_inputs(owner):
                events.clear()
                try:
                    copied(*inputs)
                except Exception as raised:  # an unsuitable input may raise anything
                    if len(events) >= furthest:
                        furthest, error = len(events), one_line(raised)
                else:
                    runs.append([*events])
                    break
    return runs, error


def _guess_inputs(owner: nn.Module) -> Iterator[tuple]:
    """Inputs that forward may accept: a map for each branch; else one or two of a pyramid, a map, tokens, a vector …"""
    like = next(owner.parameters(), torch.empty(0))
    branches = getattr(owner, 'in_channels', None)
    if isinstance(branches, (list, tuple)):
        yield ([like.new_zeros(1, channels, 32 >> i, 48 >> i) for i, channels in enumerate(branches)],)
        return
    parameters = inspect.signature(owner.forward).parameters.values()
    arity = sum(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters) or 1
    roi = getattr(owner, 'roi_feat_size', None) or getattr(owner, 'input_feat_shape', None)
    sizes = [to_2tuple(roi)] if roi else [(7, 11), (14, 14), (32, 48), (128, 192)]  # not to look like channels
    for key, (height, width) in product(('in_channels', 'in_features'), sizes if arity < 3 else ()):
        channels = next((n for part in owner.modules() if isinstance(n := getattr(part, key, None), int)), 0)
        if not channels or (channels > 4 and height > 100):
            continue
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

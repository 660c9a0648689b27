"""Compares a state dict with the one that a model expects."""

from collections import defaultdict

import torch
from torch import Tensor

from .published_names import PLACE, StateDict, depth_of


def compare(weights: StateDict, expected: StateDict) -> dict[str, list[str]]:
    """What keeps ``weights`` from being loaded as ``expected``, under three headings."""
    shared = {name: (weights[name], tensor) for name, tensor in expected.items() if name in weights}
    fitting = {name: (ours, theirs) for name, (ours, theirs) in shared.items() if ours.shape == theirs.shape}
    kinds = {name: _kind(ours) for name, (ours, theirs) in fitting.items() if _kind(ours) != _kind(theirs)}
    return {
        'missing': [name for name in expected if name not in weights],
        'of another shape': [
            f'{name}: {tuple(ours.shape)}, not {tuple(theirs.shape)}'
            for name, (ours, theirs) in shared.items()
            if name not in fitting
        ],
        'of another kind': [f'{name}: {kind}' for name, kind in kinds.items()],
        'not finite': [name for name, (ours, _) in fitting.items() if name not in kinds and not ours.isfinite().all()],
        'unexplained': [name for name in weights if name not in expected],
    }


def _kind(tensor: Tensor) -> str:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return 'no plain tensor'
    if tensor.is_floating_point():
        return 'floating-point numbers'
    return 'complex numbers' if tensor.is_complex() else 'integers'


def likely_reason(weights: StateDict, expected: StateDict) -> str:
    """What differs as a whole, with a colon behind it; nothing where that cannot be told."""
    ours, theirs = depth_of(weights), depth_of(expected)
    if ours and theirs and ours != theirs:
        return f"the checkpoint is a ResNet-{ours}, the config's backbone a ResNet-{theirs}: "
    for what, part in (('squeeze and excitation', '.se.'), ('learnable activations', 'lambda_')):
        ours, theirs = (any(part in name for name in names) for names in (weights, expected))
        if ours != theirs:
            return f'{"the model" if ours else "the checkpoint"} has no {what}: '
    name = next((name for name in expected if name.endswith('fc_cls.weight')), None)
    if name in weights and weights[name].dim() == 2 and len(weights[name]) != len(expected[name]):
        return f"its classifier has {len(weights[name])} outputs, the config's {len(expected[name])}: "
    return ''


def summary(headings: dict[str, list[str]]) -> str:
    """The lines under their headings; those that differ in stage and block alone make one.

    Example:
        >>> print(summary(dict(missing=[f'layer1.{block}.se.fc1.weight' for block in (0, 1, 2, 4)], dropped=[])))
        missing               4
            layer*.*.se.fc1.weight  (layer1.0-2, layer1.4)
        dropped               0
    """
    text = []
    for heading, lines in headings.items():
        text.append(f'{heading:17}{len(lines):6}')
        groups = defaultdict(list)
        for line in lines:
            groups[PLACE.sub('layer*.*', line)] += PLACE.findall(line)[:1]
        text += [f'    {line}' + (f'  ({_runs(places)})' if places else '') for line, places in groups.items()]
    return '\n'.join(text)


def _runs(places: list[tuple[str, str]]) -> str:
    """Pairs of stage and block, in order, as e.g. ``layer1.0-2, layer2.0``."""
    runs: list[tuple[str, int, int]] = []
    for stage, block in places:
        begun = runs and runs[-1][0] == stage and runs[-1][2] == int(block) - 1
        runs.append((stage, runs.pop()[1] if begun else int(block), int(block)))
    return ', '.join(f'layer{stage}.{first}' + (f'-{last}' if last > first else '') for stage, first, last in runs)


# ---------------------------------------------------------------- conversion


class WrongWeights(ValueError):
    """The weights do not fit the model they are for; ``report`` lists every key."""

    def __init__(self, message: str, report: str) -> None:
        super().__init__(message)
        self.report = report

"""Compares the weights of a checkpoint with those that a model expects: the one place that decides whether they fit."""

from collections import defaultdict
from collections.abc import Collection

import torch
from torch import Tensor

from apa_mmdet.utils.errors import CodedError

from .official_names import PLACE, depth_of, is_se_convolution, translate_names

StateDict = dict[str, Tensor]

# what can keep weights from being loaded: key of the differences → how a message calls it
DIFFERENCES = {
    'missing': 'missing',
    'shape': 'of another shape',
    'type': 'of another type',
    'not-finite': 'not finite',
    'unexpected': 'unexpected',
}

# codes of WrongWeights → what to do
OTHER_CONFIG = 'use the config that it was trained with'
CODES = {
    'official-names': 'convert the official names with tools/convert_official_weights.py',
    'nothing-in-common': 'use weights of this model',
    'not-finite': 'use an earlier checkpoint',
    **dict.fromkeys(('other-depth', 'other-attention', 'other-activations', 'other-classes'), OTHER_CONFIG),
    'other-model': OTHER_CONFIG,
}
OTHER_NETWORK = 'official-names', 'other-depth', 'nothing-in-common'


class WrongWeights(CodedError):
    """Raised when weights do not fit the model that they are for; the code is the likely reason, of :data:`CODES`.

    Attributes:
        differences: as of :func:`compare`.
        report: the differences as text, where a caller prints them.
    """

    differences: dict[str, list[str]]
    report: str = ''


def compare(weights: StateDict, expected: StateDict) -> dict[str, list[str]]:
    """Lists, for each key of :data:`DIFFERENCES`, the names of weights that cannot be loaded as ``expected``."""
    shared = {name: (weights[name], tensor) for name, tensor in expected.items() if name in weights}
    fitting = {name: (ours, theirs) for name, (ours, theirs) in shared.items() if ours.shape == theirs.shape}
    types = {name: _type(ours) for name, (ours, theirs) in fitting.items() if _type(ours) != _type(theirs)}
    return {
        'missing': [name for name in expected if name not in weights],
        'shape': [
            f'{name}: {tuple(ours.shape)}, not {tuple(theirs.shape)}'
            for name, (ours, theirs) in shared.items()
            if name not in fitting
        ],
        'type': [f'{name}: {numbers}' for name, numbers in types.items()],
        'not-finite': [name for name, (ours, _) in fitting.items() if name not in types and not ours.isfinite().all()],
        'unexpected': [name for name in weights if name not in expected],
    }


def _type(tensor: Tensor) -> str:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return 'not a plain tensor'
    if tensor.is_floating_point():
        return 'floating-point numbers'
    return 'complex numbers' if tensor.is_complex() else 'integers'


def check_fit(
    weights: StateDict, expected: StateDict, checkpoint: str, model: str, ignore: Collection[str] = ()
) -> dict[str, list[str]]:
    """Returns all differences, as :func:`compare`; raises unless the weights can be loaded into the model.

    Args:
        weights: name → tensor, of the checkpoint.
        expected: the same of the model. Buffers of integers may be missing, such as the counters that old norms lack.
        checkpoint: what the message calls the checkpoint.
        model: what it calls the model.
        ignore: differences that are allowed. Weights without a single name of the model, or of another depth, are
            refused all the same, and so are those of another attention or activation where none may be missing.

    Raises:
        WrongWeights: if they do not fit.
    """
    found = compare(weights, expected)
    differences = {key: names for key, names in found.items() if key not in ignore}
    if 'missing' in differences:
        differences['missing'] = [name for name in differences['missing'] if expected[name].is_floating_point()]
    code, reason = likely_reason(weights, expected)
    other = OTHER_NETWORK if 'missing' in ignore else (*OTHER_NETWORK, 'other-attention', 'other-activations')
    if any(differences.values()) or code in other:
        raise misfit(differences, checkpoint, model, code, reason)
    return found


def not_given(differences: dict[str, list[str]]) -> list[str]:
    """The names of a model's weights that :func:`compare` finds missing or of another shape."""
    return [*differences['missing'], *(line.partition(':')[0] for line in differences['shape'])]


def misfit(
    differences: dict[str, list[str]], checkpoint: str, model: str, code: str = 'other-model', reason: str = ''
) -> WrongWeights:
    """Returns the error for these differences."""
    listed = {key: names for key, names in differences.items() if names}
    if list(listed) == ['not-finite'] and code not in OTHER_NETWORK:
        code, reason = 'not-finite', ''
    counts = ', '.join(f'{len(names)} {DIFFERENCES[key]}' for key, names in listed.items())
    first = f'weights {counts}, first {next(iter(listed.values()))[0]}' if listed else ''
    what = ': '.join(part for part in (reason, first) if part)
    error = WrongWeights(code, f'{checkpoint} does not fit {model}: {what}; {CODES[code]}')
    error.differences = differences
    return error


def likely_reason(weights: StateDict, expected: StateDict) -> tuple[str, str]:
    """Returns a code and a sentence for what differs as a whole; ``other-model`` and no sentence if nothing does."""
    official = [name for name, ours in translate_names(weights).items() if ours != name and name not in expected]
    if official:
        return 'official-names', f'{official[0]} is an official name'
    linear = (name for name, tensor in expected.items() if tensor.dim() == 2 and name in weights)
    convolution = next((name for name in linear if is_se_convolution(name, weights[name].shape)), None)
    if convolution:
        return 'official-names', f'{convolution} is a 1x1 convolution, as in timm'
    ours, theirs = depth_of(weights), depth_of(expected)
    if ours and theirs and ours != theirs:
        return 'other-depth', f'the checkpoint is a ResNet-{ours}, the model a ResNet-{theirs}'
    if not any(name in expected for name in weights):
        names = (', '.join(list(names)[:3]) for names in (weights, expected))
        return 'nothing-in-common', 'no name in common, {} … against {} …'.format(*names)
    for code, what, part in (
        ('other-attention', 'squeeze and excitation', '.se.'),
        ('other-activations', 'learnable activations', 'lambda_'),
    ):
        ours, theirs = (any(part in name for name in names) for names in (weights, expected))
        if ours != theirs:
            return code, f'{"the model" if ours else "the checkpoint"} has no {what}'
    name = next((name for name in expected if name.endswith('fc_cls.weight')), None)
    if name in weights and weights[name].dim() == 2 and len(weights[name]) != len(expected[name]):
        return 'other-classes', f"its classifier has {len(weights[name])} outputs, the model's {len(expected[name])}"
    return 'other-model', ''


def summary(headings: dict[str, list[str]]) -> str:
    """Renders the lines under their headings; those that differ only in stage and block are merged.

    Example:
        >>> print(summary(dict(missing=[f'layer1.{block}.se.fc1.weight' for block in (0, 1, 2, 4)], dropped=[])))
        missing               4
            layer*.*.se.fc1.weight  (layer1.0-2, layer1.4)
        dropped               0
    """
    text = []
    for heading, lines in headings.items():
        text.append(f'{DIFFERENCES.get(heading, heading):17}{len(lines):6}')
        groups: dict[str, list] = defaultdict(list)
        for line in lines:
            groups[PLACE.sub('layer*.*', line)] += PLACE.findall(line)[:1]
        text += [f'    {line}' + (f'  ({_runs(places)})' if places else '') for line, places in groups.items()]
    return '\n'.join(text)


def merged(names: list[str], limit: int = 12) -> str:
    """The names in a line, without repeating those that differ only in stage and block.

    Example:
        >>> merged(['layer1.0.se.fc1.weight', 'layer1.1.se.fc1.weight', 'fc.bias'])
        'layer*.*.se.fc1.weight, fc.bias'
    """
    found = list(dict.fromkeys(PLACE.sub('layer*.*', name) for name in names))
    return ', '.join(found[:limit]) + (f' and {len(found) - limit} more' if len(found) > limit else '')


def _runs(places: list[tuple[str, str]]) -> str:
    """Pairs of stage and block, in order, as e.g. ``layer1.0-2, layer2.0``."""
    runs: list[tuple[str, int, int]] = []
    for stage, block in places:
        begun = runs and runs[-1][0] == stage and runs[-1][2] == int(block) - 1
        runs.append((stage, runs.pop()[1] if begun else int(block), int(block)))
    return ', '.join(f'layer{stage}.{first}' + (f'-{last}' if last > first else '') for stage, first, last in runs)

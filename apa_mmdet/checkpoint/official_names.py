"""The official names of weights and ours: plain tables and the translation between them."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

Value = TypeVar('Value')

PLACE = re.compile(r'layer(\d{1,4})\.(\d{1,4})')

BLOCK = re.compile(rf'(?:backbone\.)?{PLACE.pattern}\.')

CLASSIFIER = re.compile(r'fc\.')


def _activations(modules: dict[str, str]) -> dict[str, str]:
    parameters = dict(lambda_param='lambda_', kappa_param='kappa')
    return {f'{theirs}.{p}': f'{ours}.{q}' for theirs, ours in modules.items() for p, q in parameters.items()}


# beginning of a name → official rest of it: ours
HEADS = (
    (re.compile(r'(?:backbone\.)?'), _activations(dict(relu='act_stem'))),
    (re.compile(r'.*\.conv_logits\.'), dict(tempearture='temperature')),
    (re.compile(r'.*\.fc_cls\.'), dict(s_='scale')),
)

ATTENTION = {
    **_activations({'se.uniact': 'se.gate'}),
    'se.excitation.0.weight': 'se.fc1.weight',
    'se.excitation.2.weight': 'se.fc2.weight',
}

BOTTLENECK = _activations(dict(unirect1='act_conv1', unirect2='act_conv2', unirect3='act_out'))

# No official checkpoint of depth 18 or 34 was available: assumes that activations are numbered in forward order.
BASIC_BLOCK = _activations(dict(unirect1='act_conv1', unirect2='act_out'))


# depth: (has bottlenecks, blocks of each stage)
DEPTHS = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
}


def translate_names(names: Iterable[str], to_official: bool = False) -> dict[str, str]:
    """Maps each official name of ``names`` to ours, in their order; each of ours to the official with ``to_official``.

    A name that is the same on both sides, or unknown, maps to itself.

    Raises:
        ValueError: if two names become one.

    Example:
        >>> translate_names(['backbone.relu.lambda_param', 'backbone.conv1.weight'])
        {'backbone.relu.lambda_param': 'backbone.act_stem.lambda_', 'backbone.conv1.weight': 'backbone.conv1.weight'}
    """
    names = list(names)
    sites = BOTTLENECK if _is_bottleneck(names) else BASIC_BLOCK
    rules = [(BLOCK, {**sites, **ATTENTION}), *HEADS]
    if to_official:
        rules = [(where, {ours: theirs for theirs, ours in table.items()}) for where, table in rules]

    def other(name: str) -> str:
        for where, table in rules:
            place = where.match(name)
            if place and name[place.end() :] in table:
                return name[: place.end()] + table[name[place.end() :]]
        return name

    result: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name in names:
        result[name] = other(name)
        if taken.setdefault(result[name], name) != name:
            raise ValueError(
                f'{taken[result[name]]} and {name} would both become {result[name]}: '
                'the names are partly official ones, partly ours'
            )
    return result


def convert_official_state_dict(state_dict: dict[str, Value]) -> dict[str, Value]:
    """Returns the weights of an official backbone or detector under our names, without a classifier ``fc.*``.

    Args:
        state_dict: official name → tensor; unknown names stay.

    Raises:
        ValueError: if two names become one.
    """
    names = translate_names(name for name in state_dict if not CLASSIFIER.match(name))
    return {ours: state_dict[theirs] for theirs, ours in names.items()}


def _is_bottleneck(names: Iterable[str]) -> bool:
    return any('.conv3.' in name for name in names)


def depth_of(names: Iterable[str]) -> int | None:
    """Returns the depth of the ResNet whose parameters have these names, None if there is no such depth.

    Example:
        >>> depth_of(f'layer{stage}.{block}.conv2.weight' for stage in (1, 2, 3, 4) for block in (0, 1))
        18
    """
    names = list(names)
    blocks = Counter(stage for stage, _ in sorted({m.groups() for m in map(BLOCK.match, names) if m}))
    for depth, (bottleneck, stage_blocks) in DEPTHS.items():
        if tuple(blocks.values()) == stage_blocks and _is_bottleneck(names) == bottleneck:
            return depth
    return None

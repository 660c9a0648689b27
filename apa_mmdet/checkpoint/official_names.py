"""The names of weights elsewhere and ours: plain tables and the translation between them.

The official ones of APA are translated in both directions, those of MMPretrain's (``se_layer``) and timm's SE-ResNets
only into ours. There the two linear maps of the attention are 1x1 convolutions with biases:
``se_cfg=dict(norm_cfg=None, gate_cfg=dict(type='Sigmoid'), dropout=0.0, bias=True)`` in ours.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from apa_mmdet.utils.errors import CodedError

Value = TypeVar('Value')

PLACE = re.compile(r'layer(\d{1,4})\.(\d{1,4})')

BLOCK = re.compile(rf'(?:backbone\.)?{PLACE.pattern}\.')

CLASSIFIER = re.compile(r'(fc|linear)\.')  # `linear` in the networks of CIFAR

SE_CONVOLUTION = re.compile(rf'{BLOCK.pattern}(se\.fc[12]|se_layer\.conv[12]\.conv)\.weight$')

MMPRETRAIN_CLASSIFIER = re.compile(r'head\.(fc|layers)\.')


def _activations(modules: dict[str, str]) -> dict[str, str]:
    parameters = dict(lambda_param='lambda_', kappa_param='kappa')
    return {f'{theirs}.{p}': f'{ours}.{q}' for theirs, ours in modules.items() for p, q in parameters.items()}


# official rest of a name in a block: ours
SE, SE_OF_CIFAR = (
    {
        **_activations({f'se.{gate}': 'se.gate'}),
        'se.excitation.0.weight': 'se.fc1.weight',
        'se.excitation.2.weight': 'se.fc2.weight',
    }
    for gate in ('uniact', 'unact')
)

CBAM = {
    **_activations({'cbam.ChannelGate.uniact': 'se.channel_gate', 'cbam.SpatialGate.uniact': 'se.spatial_gate'}),
    'cbam.SpatialGate.spatial.conv.weight': 'se.conv.weight',
    **{
        f'cbam.{theirs}.{part}': f'se.{ours}.{part}'
        for theirs, ours in {
            'ChannelGate.norm': 'norm',
            'ChannelGate.mlp.1': 'fc1',
            'ChannelGate.mlp.3': 'fc2',
            'SpatialGate.spatial.bn': 'spatial_norm',
        }.items()
        for part in ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked')
    },
}

MMPRETRAIN = {f'se_layer.conv{i}.conv.{part}': f'se.fc{i}.{part}' for i in (1, 2) for part in ('weight', 'bias')}

BOTTLENECK = _activations(dict(unirect1='act_conv1', unirect2='act_conv2', unirect3='act_out'))

# Official checkpoints of CIFAR have these. None of depth 18 or 34 was available: assumes the same.
BASIC_BLOCK = _activations(dict(unirect1='act_conv1', unirect2='act_out'))

STEM, STEM_OF_CIFAR = _activations(dict(relu='act_stem')), _activations(dict(unirect='act_stem'))

# beginning of a name → official rest of it: ours
HEADS = (
    (re.compile(r'.*\.conv_logits\.'), dict(tempearture='temperature')),
    (re.compile(r'.*\.fc_cls\.'), dict(s_='scale')),
)

# depth: (has bottlenecks, blocks of each stage)
DEPTHS = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
}

CIFAR_DEPTHS = {depth: (False, ((depth - 2) // 6,) * 3) for depth in (20, 32, 44, 56, 110)}


def translate_names(names: Iterable[str], to_official: bool = False) -> dict[str, str]:
    """Maps each official name of ``names`` to ours, in their order; each of ours to the official with ``to_official``.

    A name that is the same on both sides, or unknown, maps to itself.

    Raises:
        CodedError: ``mixed-names``, if two names become one.

    Example:
        >>> translate_names(['backbone.relu.lambda_param', 'backbone.conv1.weight'])
        {'backbone.relu.lambda_param': 'backbone.act_stem.lambda_', 'backbone.conv1.weight': 'backbone.conv1.weight'}
    """
    names = list(names)
    sites = BOTTLENECK if _is_bottleneck(names) else BASIC_BLOCK
    if to_official:
        cifar = depth_of(names) in CIFAR_DEPTHS
        attention = CBAM if any('.se.conv.' in name for name in names) else SE_OF_CIFAR if cifar else SE
        stem = STEM_OF_CIFAR if cifar else STEM
    else:
        attention, stem = {**SE, **SE_OF_CIFAR, **CBAM, **MMPRETRAIN}, {**STEM, **STEM_OF_CIFAR}
    rules = [(BLOCK, {**sites, **attention}), (re.compile(r'(?:backbone\.)?'), stem), *HEADS]
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
            raise CodedError(
                'mixed-names',
                f'{taken[result[name]]} and {name} would both become {result[name]}: '
                'the names are partly official ones, partly ours',
            )
    return result


def is_se_convolution(name: str, shape: Sequence[int]) -> bool:
    """Whether this is a linear map of an attention as a 1x1 convolution, of shape (out, in, 1, 1)."""
    return len(shape) == 4 and tuple(shape[2:]) == (1, 1) and SE_CONVOLUTION.match(name) is not None


def without_classifier(names: Iterable[str]) -> dict[str, str]:
    """Maps the names without those of a classifier to themselves, in a classifier of MMPretrain without ``backbone.``.

    Example:
        >>> without_classifier(['conv1.weight', 'fc.weight'])
        {'conv1.weight': 'conv1.weight'}
        >>> without_classifier(['backbone.conv1.weight', 'head.fc.weight'])
        {'backbone.conv1.weight': 'conv1.weight'}
    """
    names, prefix = list(names), 'backbone.'
    if any(MMPRETRAIN_CLASSIFIER.match(name) for name in names):
        return {name: name[len(prefix) :] for name in names if name.startswith(prefix)}
    return {name: name for name in names if not CLASSIFIER.match(name)}


def classifier_names(names: Iterable[str], to_official: bool = False) -> dict[str, str]:
    """As :func:`translate_names`, for a backbone with its classifier: ``backbone.…`` and ``head.fc.…`` are ours.

    The learned scale of a cosine classifier, σ, is called ``sigma`` here and ``scale`` there.

    Example:
        >>> classifier_names(['relu.kappa_param', 'fc.weight', 'fc.scale'])['fc.scale']
        'head.fc.sigma'
        >>> classifier_names(['backbone.act_stem.kappa', 'head.fc.sigma'], to_official=True)
        {'backbone.act_stem.kappa': 'relu.kappa_param', 'head.fc.sigma': 'fc.scale'}
    """
    names = list(names)
    inner = {name: name.removeprefix('backbone.') for name in names}
    own = (r'head\.fc\.', r'fc\.|linear\.')
    heads = {name: match.group() for name in names if (match := re.match('|'.join(own), name))}
    others = translate_names((inner[name] for name in names if name not in heads), to_official)
    official = 'linear.' if depth_of(others) in CIFAR_DEPTHS else 'fc.'

    def other(name: str) -> str:
        if name not in heads:
            translated = others[inner[name]]
            return translated if to_official or name.startswith('head.') else f'backbone.{translated}'
        part = name[len(heads[name]) :]
        if to_official:
            return official + ('scale' if part == 'sigma' else part)
        return 'head.fc.' + ('sigma' if part == 'scale' else part)

    return {name: other(name) for name in names}


def convert_official_state_dict(state_dict: dict[str, Value]) -> dict[str, Value]:
    """Returns the weights of a backbone or detector under our names, without a classifier ``fc.*``.

    Args:
        state_dict: official name, or one of MMPretrain's or timm's SE-ResNets → tensor; unknown names stay.

    Raises:
        CodedError: ``mixed-names``, if two names become one.
    """
    kept = without_classifier(state_dict)
    ours = translate_names(kept.values())
    return {ours[inner]: as_linear(inner, state_dict[name]) for name, inner in kept.items()}


def as_linear(name: str, value: Any) -> Any:
    """The weight of a linear map of the attention as (out, in); every other value as it is."""
    shape = getattr(value, 'shape', ())
    return value.flatten(1) if is_se_convolution(name, shape) else value


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
    for depth, (bottleneck, stage_blocks) in {**DEPTHS, **CIFAR_DEPTHS}.items():
        if tuple(blocks.values()) == stage_blocks and _is_bottleneck(names) == bottleneck:
            return depth
    return None

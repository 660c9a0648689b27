"""Published weights → ours, and back: the one spot that knows the published names.

A *classification checkpoint* (weights under ``model``, classifier ``fc.*``) becomes backbone weights for
``init_cfg=dict(type='Pretrained', checkpoint=…)``, a *detection checkpoint* (names under ``backbone.``) one that
``tools/test.py`` loads. Everything is compared with the model it is for before anything is written.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import Tensor

from .engine.weights_file import read_checkpoint, write_checkpoint
from .models.backbones import SEResNet

StateDict = dict[str, Tensor]

# ---------------------------------------------------------------- names

PLACE = re.compile(r'layer(\d{1,4})\.(\d{1,4})')
BLOCK = re.compile(rf'(?:backbone\.)?{PLACE.pattern}\.')
CLASSIFIER = re.compile(r'fc\.')


def _activations(modules: dict[str, str]) -> dict[str, str]:
    parameters = dict(lambda_param='lambda_', kappa_param='kappa')
    return {f'{theirs}.{p}': f'{ours}.{q}' for theirs, ours in modules.items() for p, q in parameters.items()}


# what a name begins with → published rest of it: ours
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
# no published file of depth 18 or 34 was at hand: this takes its activations to be counted in the order of use
BASIC_BLOCK = _activations(dict(unirect1='act_conv1', unirect2='act_out'))


def other_names(names: Iterable[str], to_official: bool = False) -> dict[str, str]:
    """Published name → ours for each of ``names``, in their order; the other way round with ``to_official``.

    A name that is the same on both sides, or not known, stays.

    Raises:
        ValueError: if two names become one.

    Example:
        >>> other_names(['backbone.relu.lambda_param', 'backbone.conv1.weight'])
        {'backbone.relu.lambda_param': 'backbone.act_stem.lambda_', 'backbone.conv1.weight': 'backbone.conv1.weight'}
    """
    names = list(names)
    sites = BOTTLENECK if _is_bottleneck(names) else BASIC_BLOCK
    rules = ((BLOCK, {**sites, **ATTENTION}), *HEADS)
    if to_official:
        rules = tuple((where, {ours: theirs for theirs, ours in table.items()}) for where, table in rules)

    def other(name: str) -> str:
        for where, table in rules:
            place = where.match(name)
            if place and name[place.end() :] in table:
                return name[: place.end()] + table[name[place.end() :]]
        return name

    result, taken = {}, {}
    for name in names:
        result[name] = other(name)
        if taken.setdefault(result[name], name) != name:
            raise ValueError(
                f'{taken[result[name]]} and {name} would both become {result[name]}: '
                'the names are partly published ones, partly ours'
            )
    return result


def convert_official_state_dict(state_dict: StateDict) -> StateDict:
    """The weights of a published backbone or detector under our names, in their order, without a classifier ``fc.*``.

    Args:
        state_dict: published name → tensor; what is under other names stays as it is.

    Raises:
        ValueError: if two names become one.
    """
    names = other_names(name for name in state_dict if not CLASSIFIER.match(name))
    return {ours: state_dict[theirs] for theirs, ours in names.items()}


def _is_bottleneck(names: Iterable[str]) -> bool:
    return any('.conv3.' in name for name in names)


# ---------------------------------------------------------------- comparison


def depth_of(names: Iterable[str]) -> int | None:
    """Depth of the ResNet whose parameters have these names, None if SEResNet knows no such depth.

    Example:
        >>> depth_of(f'layer{stage}.{block}.conv2.weight' for stage in (1, 2, 3, 4) for block in (0, 1))
        18
    """
    names = list(names)
    blocks = Counter(stage for stage, _ in sorted({m.groups() for m in map(BLOCK.match, names) if m}))
    for depth, (block, stage_blocks) in SEResNet.arch_settings.items():
        if tuple(blocks.values()) == stage_blocks and _is_bottleneck(names) == ('conv2' in block.sites):
            return depth
    return None


def infer_backbone(weights: StateDict) -> dict:
    """The recipe of the backbone that has these weights (our names): an APA network or the baseline.

    Raises:
        ValueError: if no depth of SEResNet has such blocks.
    """
    depth = depth_of(weights)
    if depth is None:
        raise ValueError(
            f'the weights, {", ".join(list(weights)[:3])} …, are not those of the blocks, layer1.0 to '
            f'layer4.…, of a ResNet of depth {list(SEResNet.arch_settings)}; name the config of another '
            'backbone with --config'
        )
    recipe = dict(type='SEResNet', depth=depth)
    grouped = weights.get('layer1.0.conv2.weight')
    if grouped is not None and grouped.dim() == 4 and 0 < grouped.shape[1] < len(grouped):
        recipe.update(type='SEResNeXt', groups=len(grouped) // grouped.shape[1], base_width=grouped.shape[1])
    if not any(name.endswith('.lambda_') for name in weights):
        recipe.update(act_cfg=dict(type='ReLU'), se_cfg=dict(norm_cfg=None, gate_cfg=dict(type='Sigmoid'), dropout=0.0))
    return recipe


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


def convert_file(
    source: str, target: str, config: str | None = None, to_official: bool = False, force: bool = False
) -> str:
    """Convert a checkpoint file; return a report that lists every key renamed or dropped.

    Args:
        source: classification or detection checkpoint.
        target: what is written; its folder is made.
        config: file of the model that the weights are for. A detection checkpoint needs it; the backbone of a
            classification checkpoint is otherwise told from its weights.
        to_official: from our names to the published ones.
        force: overwrite ``target``.

    Raises:
        OSError: if ``source`` cannot be read, or ``target`` is there and ``force`` is not given.
        ValueError: if ``source`` is no checkpoint to be converted; :class:`WrongWeights` if a weight is missing,
            unexplained or of another shape. Nothing is written then.
    """
    source, target = Path(source), Path(target)
    if target.exists() and not force:
        raise FileExistsError(f'{target} is there already; name another file, or overwrite it with --force')
    weights, _, meta, rest = read_checkpoint(source)
    if target.exists() and target.samefile(source):
        raise FileExistsError(f'{target} is the file to convert; name another for the result')
    classifier = [name for name in weights if CLASSIFIER.match(name)]
    names = other_names((name for name in weights if name not in classifier), to_official)
    ours = {name if to_official else new: weights[name] for name, new in names.items()}
    _check_direction(source, names, to_official)
    detector = any(name.startswith('backbone.') for name in ours)
    if detector and config is None:
        raise ValueError(f'{source} is a detection checkpoint; name the config of its model with --config')
    expected, model = _expected(config, detector, ours)
    wrong = compare(ours, expected)
    report = f'{source}: {len(names)} weights, compared with {model}\n' + summary(
        {
            'renamed': [f'{old} → {new}' for old, new in names.items() if old != new],
            'dropped': classifier + rest,
            **wrong,
        }
    )
    if any(wrong.values()):
        counts = ', '.join(f'{len(lines)} {heading}' for heading, lines in wrong.items() if lines)
        first = next(lines[0] for lines in wrong.values() if lines)
        reason = likely_reason(ours, expected)
        raise WrongWeights(f'{source} does not fit {model}: {reason}{counts}, first {first}', report)
    nest = 'model' if to_official and not detector else 'state_dict'
    write_checkpoint({'meta': meta, nest: {new: weights[old] for old, new in names.items()}}, target)
    use = (
        'for the published code' + ('' if detector else ', without a classifier')
        if to_official
        else f'for tools/test.py {config}'
        if detector
        else f"for {model} with init_cfg=dict(type='Pretrained', …)"
    )
    return f'{report}\nwritten: {target}, {use}'


def _check_direction(source: Path, names: dict[str, str], to_official: bool) -> None:
    renamed = [name for name, other in names.items() if other != name]
    if not renamed and any(other != name for name, other in other_names(names, not to_official).items()):
        raise ValueError(
            f'{source} has the published names already; leave out --to-official'
            if to_official
            else f'{source} has our names already and needs no conversion; --to-official goes the other way'
        )


def _expected(config: str | None, detector: bool, weights: StateDict) -> tuple[StateDict, str]:
    """The weights of the model that ``weights`` are for, and what to call it."""
    if not config:
        recipe = infer_backbone(weights)
        return _build(recipe), _as_call(recipe)
    if not Path(config).is_file():
        raise FileNotFoundError(f'config {config}: no such file')
    try:  # a config is a program, and its model anybody's: anything may come out of them
        model = Config.fromfile(config).get('model', {})
        expected = _build(model if detector else model.get('backbone')) if 'backbone' in model else None
    except Exception as error:
        line = next(iter(str(error).strip().splitlines()), '')
        raise ValueError(f'config {config}: {type(error).__name__}: {line}') from None
    if expected is None:
        raise ValueError(f'{config} has no model.backbone; name the config of a detector')
    return expected, config if detector else f'the backbone of {config}'


def _build(recipe: dict) -> StateDict:
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(recipe).state_dict()


def _as_call(recipe: dict) -> str:
    arguments = (
        f'{key}={_as_call(value) if isinstance(value, dict) else repr(value)}' for key, value in recipe.items()
    )
    return f'dict({", ".join(arguments)})'

"""Published weights → ours, and back: the one spot that knows the published names.

A *classification checkpoint* (weights under ``model``, classifier ``fc.*``) becomes backbone weights for
``init_cfg=dict(type='Pretrained', checkpoint=…)``, a *detection checkpoint* (names under ``backbone.``) one that
``tools/test.py`` loads. Everything is compared with the model it is for before anything is written.
"""

from pathlib import Path

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope

from apa_mmdet.checkpoint.compare import WrongWeights, compare, likely_reason, summary
from apa_mmdet.checkpoint.io import read_checkpoint, write_checkpoint
from apa_mmdet.checkpoint.published_names import CLASSIFIER, StateDict, depth_of, translate_names
from apa_mmdet.models.backbones import SEResNet


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
    names = translate_names((name for name in weights if name not in classifier), to_official)
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
    if not renamed and any(other != name for name, other in translate_names(names, not to_official).items()):
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

"""Converts official weights, and SE-ResNets of MMPretrain and timm, to our names, and the official ones back.

A *classification checkpoint* (weights with a classifier ``fc.*``, ``linear.*`` or ``head.fc.*``) becomes backbone
weights for ``init_cfg=dict(type='Pretrained', checkpoint=…)`` or, with the config of a classifier, one that
``tools/test.py`` loads; so does a *detection checkpoint* (names under ``backbone.``) with that of its detector.
Everything is compared with the model it is for before anything is written.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from apa_mmdet.checkpoint.class_order import read_class_order, reorder_classifier
from apa_mmdet.checkpoint.compare import StateDict, WrongWeights, check_fit, compare, summary
from apa_mmdet.checkpoint.io import read_checkpoint, write_checkpoint
from apa_mmdet.checkpoint.official_names import (
    CIFAR_DEPTHS,
    as_linear,
    classifier_names,
    depth_of,
    translate_names,
    without_classifier,
)
from apa_mmdet.models.backbones import SEResNet
from apa_mmdet.models.calibration import without_calibration
from apa_mmdet.utils.config import build_detector, is_classifier, load_config
from apa_mmdet.utils.errors import CodedError
from apa_mmdet.utils.fileio import refuse_existing


class NotConvertible(CodedError):
    """Raised when a checkpoint is not to be converted as asked for. The message names the file.

    Codes: ``unknown-backbone``, ``needs-config`` and ``wrong-direction``.
    """


def infer_backbone(weights: StateDict) -> dict:
    """Returns the config of the backbone that has these weights (our names): an APA network or the baseline.

    Raises:
        NotConvertible: if no depth of SEResNet has such blocks.
    """
    depth = depth_of(weights)
    if depth is None:
        raise NotConvertible(
            'unknown-backbone',
            f'the weights, {", ".join(list(weights)[:3])} …, are not those of the blocks, layer1.0 to '
            f'layer4.…, of a ResNet of depth {list(SEResNet.arch_settings)}; name the config of another '
            'backbone with --config',
        )
    backbone = dict(type='SEResNetCifar' if depth in CIFAR_DEPTHS else 'SEResNet', depth=depth)
    grouped = weights.get('layer1.0.conv2.weight')
    if grouped is not None and grouped.dim() == 4 and 0 < grouped.shape[1] < len(grouped):
        backbone.update(type='SEResNeXt', groups=len(grouped) // grouped.shape[1], base_width=grouped.shape[1])
    if not any(name.endswith('.lambda_') for name in weights):
        se_cfg = dict(norm_cfg=None, gate_cfg=dict(type='Sigmoid'), dropout=0.0)
        if any(name.endswith('.se.fc1.bias') for name in weights):  # of MMPretrain or timm
            se_cfg['bias'] = True
        backbone.update(act_cfg=dict(type='ReLU'), se_cfg=se_cfg)
    if any('.se.conv.' in name for name in weights):
        cbam = dict(type='CBAM')
        if not any('.se.norm.' in name for name in weights):
            cbam['norm_cfg'] = None
        if 'se_cfg' in backbone:
            cbam['gate_cfg'] = dict(type='Sigmoid')
        backbone['se_cfg'] = cbam
    return backbone


def convert_file(
    source: str,
    target: str,
    config: str | None = None,
    to_official: bool = False,
    class_order: str | None = None,
    force: bool = False,
) -> str:
    """Converts a checkpoint file; returns a report that lists every key renamed or dropped.

    Args:
        source: classification or detection checkpoint.
        target: file to write; its folder is created.
        config: file of the model that the weights are for. A detection checkpoint needs it, and a classification
            checkpoint whose classifier is to be kept; its backbone is inferred from its weights by default.
        to_official: from our names to the official ones.
        class_order: file with the data set's number of each class in the order of the official classifier; its rows
            are moved to the numbers of the data set, and back with ``to_official``.
        force: overwrite ``target``.

    Raises:
        OSError: if ``source`` cannot be read, or ``target`` exists and ``force`` is not given, or is ``source``.
        BadCheckpoint: if ``source`` holds no weights.
        BadConfig: if no model can be built from ``config``.
        BadClassOrder: if ``class_order`` is not an order of the classes of the checkpoint.
        NotConvertible: if it is not clear what to convert to.
        WrongWeights: if a weight is missing, unexpected or of another shape. Nothing is written then.
    """
    source, target = Path(source), Path(target)
    refuse_existing(target, force, [source])
    weights, _, meta, rest = read_checkpoint(source)
    cfg = load_config(config) if config else None
    found = _translate(weights, source, cfg is not None and is_classifier(cfg), to_official)
    if class_order:
        found = found._replace(ours=reorder_classifier(found.ours, read_class_order(class_order), inverse=to_official))
    if found.is_whole and cfg is None:
        raise NotConvertible(
            'needs-config', f'{source} is a detection checkpoint; name the config of its model with --config'
        )
    expected, model = _expected(cfg, config, found.is_whole, found.ours)
    report = _compare(found, expected, source, model, rest)
    write_checkpoint({'meta': meta, found.nest: found.result}, target)
    return f'{report}\nwritten: {target}, {_use(found, config, model)}'


class _Translation(NamedTuple):
    """Weights of a checkpoint under both names.

    Attributes:
        names: of the checkpoint → of the result; one of the two is ours.
        ours: the weights by our names.
        dropped: names of weights that the result does not have.
        of_classifier: whether they are of a classifier with its config.
        to_official: whether the names of the result are the official ones.
    """

    names: dict[str, str]
    ours: StateDict
    dropped: list[str]
    of_classifier: bool
    to_official: bool

    @property
    def is_whole(self) -> bool:
        """Whether they are of a detector, or of a classifier with its config, not of a backbone only."""
        return any(name.startswith('backbone.') for name in self.ours)

    @property
    def nest(self) -> str:
        """The key under which the result has them."""
        return 'model' if self.to_official and (self.of_classifier or not self.is_whole) else 'state_dict'

    @property
    def result(self) -> StateDict:
        """The weights by the names of the result."""
        return {new: self.ours[old if self.to_official else new] for old, new in self.names.items()}


def _translate(weights: StateDict, source: Path, of_classifier: bool, to_official: bool) -> _Translation:
    """Translates the names of the checkpoint ``source``; NotConvertible if it has those of the result already."""
    kept = {name: name for name in weights} if of_classifier else without_classifier(weights)
    translate = classifier_names if of_classifier else translate_names
    values = {inner: as_linear(inner, weights[name]) for name, inner in kept.items()}
    names = translate(values, to_official)
    if all(values[inner] is weights[name] for name, inner in kept.items()):
        _check_direction(source, names, translate(values, not to_official), to_official)
    ours = {old if to_official else new: values[old] for old, new in names.items()}
    dropped = [name for name in weights if name not in kept]
    return _Translation(names, ours, dropped, of_classifier, to_official)


def _compare(found: _Translation, expected: StateDict, source: Path, model: str, rest: Sequence[str]) -> str:
    """Returns the report; raises WrongWeights, with it, if the weights do not fit those ``expected`` of ``model``."""
    report = f'{source}: {len(found.names)} weights, compared with {model}\n' + summary(
        {
            'renamed': [f'{old} → {new}' for old, new in found.names.items() if old != new],
            'dropped': [*found.dropped, *rest],
            **compare(found.ours, expected),
        }
    )
    try:
        check_fit(found.ours, expected, str(source), model)
    except WrongWeights as error:
        error.report = report
        raise
    return report


def _use(found: _Translation, config: str | None, model: str) -> str:
    """What the result is for."""
    if found.to_official:
        return 'for the official code' + ('' if found.is_whole else ', without a classifier')
    if found.is_whole:
        return f'for tools/test.py {config}'
    return f"for {model} with init_cfg=dict(type='Pretrained', …)"


def _check_direction(source: Path, names: dict[str, str], others: dict[str, str], to_official: bool) -> None:
    """Raises if nothing is renamed, but would be in the other direction."""
    if all(name == other for name, other in names.items()) and any(name != other for name, other in others.items()):
        raise NotConvertible(
            'wrong-direction',
            f'{source} has the official names already; omit --to-official'
            if to_official
            else f'{source} has our names already and needs no conversion; --to-official goes the other way',
        )


def _expected(cfg: Config | None, path: str | None, whole: bool, weights: StateDict) -> tuple[StateDict, str]:
    """Returns the state dict of the model that ``weights`` are for, and what to call it."""
    if cfg is not None:
        name = path if whole else f'the backbone of {path}'
        return build_detector(without_calibration(cfg), path, None if whole else 'backbone').state_dict(), name
    backbone = infer_backbone(weights)
    cfg = Config(dict(model=dict(backbone=backbone)))
    return build_detector(cfg, 'the inferred backbone', 'backbone').state_dict(), _as_call(backbone)


def _as_call(cfg: dict) -> str:
    arguments = (f'{key}={_as_call(value) if isinstance(value, dict) else repr(value)}' for key, value in cfg.items())
    return f'dict({", ".join(arguments)})'

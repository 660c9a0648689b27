"""Calibrates the class scores of any detector or classifier, from its config."""

import copy
from typing import Any

from mmdet.registry import MODELS
from mmengine.config import Config
from torch import Tensor, nn

from apa_mmdet.utils.config import unwrapped

from .base import Calibration
from .errors import CalibrationError
from .heads import Scoring, channels_of, find_classifiers, scoring_of

NAME = 'score_calibration'  # of the calibration in a head


@MODELS.register_module('CalibrateScores')
def build_calibrated(module: dict | None = None, calibration: dict | None = None, **arguments: Any) -> nn.Module:
    """Builds a model, or a part of one, and calibrates its scores, without a wrapper; see :func:`calibrate_scores`.

    Args:
        module: config of the model, e.g. ``dict(type='MaskRCNN')``; may be a ``SwapActivations``.
        calibration: config of a :class:`Calibration`, e.g. ``dict(type='FRACAL', stats='train.json')``.
        arguments: further arguments of the model. So a config that inherits the model adds only
            ``type='CalibrateScores', module=dict(type=…), calibration=…`` to it.

    Raises:
        CalibrationError: if a config is missing; see also :func:`calibrate_scores` and the calibration.
    """
    for code, given in (('invalid-module', module), ('invalid-calibration', calibration)):
        if not isinstance(given, dict) or 'type' not in given:
            raise CalibrationError.of(code, given=f'{given!r:.60}')
    built = MODELS.build(calibration)  # first: it fails sooner
    return calibrate_scores(MODELS.build({**module, **arguments}), built)


def without_calibration(cfg: Config) -> Config:
    """A config of the same model without calibrated scores: its weights and layers need no statistics of any data.

    Example:
        >>> stats = 'annotations/train.json'
        >>> cfg = dict(type='CalibrateScores', module=dict(type='RetinaNet'), calibration=dict(type='IIF', stats=stats))
        >>> without_calibration(Config(dict(model=dict(cfg, neck=None)))).model == dict(type='RetinaNet', neck=None)
        True
    """
    bare = copy.copy(cfg)
    if cfg.get('model') is not None:
        bare.model = unwrapped(cfg.model, ['CalibrateScores'])
    return bare


def calibrate_scores(model: nn.Module, calibration: Calibration) -> nn.Module:
    """Lets every head of ``model`` that scores classes give calibrated logits in eval mode.

    A head scores its logits as ever, by softmax or by a link of each class; the calibration changes the logits so that
    the scores become calibrated ones. Training, weights and their names stay what they are.

    The heads are those of two stages (one or a cascade, of which stock code averages the logits), dense heads with
    anchors or points, those of DETR and its successors, and MMPretrain's. RPNs are not calibrated.

    Args:
        model: changed in place, and returned.
        calibration: shared by all heads; replaces an earlier one.

    Raises:
        CalibrationError: if there is no such head, it is unknown how one scores, or it has another number of classes.

    Example:
        >>> import torch
        >>> from mmdet.models import BBoxHead
        >>> from apa_mmdet.models.calibration import IIF
        >>> head = BBoxHead(num_classes=2, in_channels=1, roi_feat_size=1)
        >>> x = torch.ones(1, 1)
        >>> before = head.eval()(x)[0]
        >>> after = calibrate_scores(head, IIF(dict(image_count=[9, 1])))(x)[0]
        >>> after - before      # log(1/9), log(9), and background
        tensor([[-2.1972,  2.1972,  0.0000]], grad_fn=<SubBackward0>)
    """
    heads = dict(find_classifiers(model))
    if not heads:
        types = dict.fromkeys(type(m).__name__ for path, m in model.named_modules() if path.endswith('_head'))
        seen = f'; its heads are {", ".join(types)}' if types else ''
        raise CalibrationError.of('no-classifier', model=type(model).__name__, seen=seen)
    for head in heads.values():
        scoring_of(head)
        if calibration.classes is not None:
            _check_count(head, calibration)
    for head in heads.values():
        if not hasattr(head, NAME):
            head.register_forward_hook(_calibrate)
        setattr(head, NAME, calibration)
    return model


def _calibrate(head: nn.Module, inputs: tuple, output: Any) -> Any:
    """The hook of a head: replaces the class logits, the first of its outputs."""
    if head.training:
        return output
    scoring = scoring_of(head)
    if isinstance(output, Tensor):
        return _logits(head, scoring, output)
    first, *others = output
    if isinstance(first, Tensor):
        first = _logits(head, scoring, first)
    else:
        first = type(first)(_logits(head, scoring, logits, level) for level, logits in enumerate(first))
    return type(output)([first, *others])


def _logits(head: nn.Module, scoring: Scoring, logits: Tensor, level: int | None = None) -> Tensor:
    calibration = getattr(head, NAME)
    calibration.settle_order()
    _check_count(head, calibration)
    return calibration(logits, scoring.link, channels_of(head, scoring, logits, level))


def _check_count(head: nn.Module, calibration: Calibration) -> None:
    if calibration.num_classes != head.num_classes:
        found, name = calibration.num_classes, type(head).__name__
        raise CalibrationError.of(
            'class-count', path=calibration.origin, found=found, head=name, wanted=head.num_classes
        )

"""Checks whether losses for many classes are in heads that can use them; a loss never sees its head."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from mmdet.models.losses import EQLV2Loss, SeesawLoss
from mmdet.models.roi_heads.bbox_heads import BBoxHead, ConvFCBBoxHead
from mmdet.registry import MODELS

from apa_mmdet.datasets.validation.findings import Findings
from apa_mmdet.models.losses import BBoxHeadEQLV2Loss, DropLoss, MemoryEfficientCrossEntropyLoss
from apa_mmdet.utils.registered_classes import class_of

from .launch import Launch

OF_BBOX_HEAD = DropLoss, BBoxHeadEQLV2Loss, SeesawLoss  # with channels and scores of their own, which it alone asks for


def check_losses(launch: Launch, findings: Findings) -> None:
    """Report losses in heads that would fail at the first step or score otherwise, DropLoss without frequencies."""
    if launch.tool != 'train.py':
        return
    for path, loss, key, head in _losses(launch.cfg.get('model'), 'model', '', None):
        cls = _class_of(loss)
        if cls is EQLV2Loss and key == 'loss_cls' and issubclass(_class_of(head) or object, BBoxHead):
            findings.add('softmax-scores', [path], setting=path)
        if cls is None or not issubclass(cls, (*OF_BBOX_HEAD, MemoryEfficientCrossEntropyLoss)):
            continue
        if issubclass(cls, DropLoss) and loss.get('class_frequency') is None:
            findings.add('no-class-frequency', [path], setting=path)
        if not _fits(cls, key, head):
            findings.add(
                'loss-in-wrong-head',
                [path],
                setting=path,
                loss=cls.__name__,
                head=getattr(_class_of(head), '__name__', 'another part'),
                place='loss_cls of a BBoxHead' if issubclass(cls, OF_BBOX_HEAD) else 'the loss_cls of a head',
            )


def _losses(node: Any, path: str, key: str, parent: dict | None) -> Iterator[tuple[str, dict, str, dict]]:
    """Yields path, config, last key and surrounding config of every dict with a ``type`` inside another one."""
    if isinstance(node, dict):
        if parent is not None and node.get('type') is not None:
            yield path, node, key, parent
        for name, value in node.items():
            yield from _losses(value, f'{path}.{name}', name, node)
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _losses(value, f'{path}[{i}]', key, parent)


def _class_of(cfg: dict | None) -> type | None:
    """The class that a config builds, inside ``SwapActivations`` too; None if it is not known."""
    while (cfg or {}).get('type') in ('SwapActivations', 'CalibrateScores') and isinstance(cfg.get('module'), dict):
        cfg = cfg['module']
    return class_of(cfg)


def _fits(loss: type, key: str, head: dict) -> bool:
    if key != 'loss_cls':
        return False
    cls = _class_of(head)
    if not issubclass(loss, OF_BBOX_HEAD) or cls is None:
        return True  # a head of somebody else, which nothing is known about
    if not issubclass(cls, BBoxHead):
        return False
    if cls is BBoxHead or issubclass(cls, ConvFCBBoxHead):
        return True
    try:  # some others replace the classifier by one with a channel for background
        with torch.device('meta'):
            built = MODELS.build(deepcopy(head))
    except AttributeError:  # DIIHead asks its loss for use_sigmoid
        return False
    except Exception:
        return True  # building the model says it
    width = getattr(getattr(built, 'fc_cls', None), 'out_features', None)
    return width in (None, built.loss_cls.get_cls_channels(built.num_classes))

"""Checks whether losses for many classes are in heads that can use them; a loss never sees its head."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from mmdet.models.losses import EQLV2Loss, SeesawLoss
from mmdet.models.roi_heads.bbox_heads import BBoxHead, ConvFCBBoxHead
from mmdet.registry import MODELS

from apa_mmdet.models.losses import BBoxHeadEQLV2Loss, DropLoss, MemoryEfficientCrossEntropyLoss
from apa_mmdet.utils.config import unwrapped, walk
from apa_mmdet.utils.findings import Findings
from apa_mmdet.utils.registered_classes import class_of

from .launch import Launch

OF_BBOX_HEAD = DropLoss, BBoxHeadEQLV2Loss, SeesawLoss  # with channels and scores of their own, which it alone asks for


def check_losses(launch: Launch, findings: Findings) -> None:
    """Report losses in heads that would fail at the first step or score otherwise, DropLoss without frequencies."""
    if launch.tool != 'train.py':
        return
    for setting, loss, key, head in _typed_parts(launch.cfg.get('model')):
        cls = _class_of(loss)
        if cls is EQLV2Loss and key == 'loss_cls' and issubclass(_class_of(head) or object, BBoxHead):
            findings.add('softmax-scores', [setting], setting=setting)
        if cls is None or not issubclass(cls, (*OF_BBOX_HEAD, MemoryEfficientCrossEntropyLoss)):
            continue
        if issubclass(cls, DropLoss) and loss.get('class_frequency') is None:
            findings.add('no-class-frequency', [setting], setting=setting)
        if not _fits(cls, key, head):
            findings.add(
                'loss-in-wrong-head',
                [setting],
                setting=setting,
                loss=cls.__name__,
                head=getattr(_class_of(head), '__name__', 'another part'),
                place='loss_cls of a BBoxHead' if issubclass(cls, OF_BBOX_HEAD) else 'the loss_cls of a head',
            )


def _typed_parts(model: Any) -> Iterator[tuple[str, dict, str, dict]]:
    """Yields each ``dict(type=…)`` inside a model's config: its key, the config, its name there, and what has it."""
    nodes = dict(walk(model, 'model'))
    for setting, node in nodes.items():
        names = setting.split('.')
        while names[-1].isdecimal():  # of a list
            names.pop()
        parent = nodes.get('.'.join(names[:-1]))
        if isinstance(node, dict) and node.get('type') is not None and isinstance(parent, dict):
            yield setting, node, names[-1], parent


def _class_of(cfg: dict | None) -> type | None:
    """The class that a config builds, inside ``SwapActivations`` too; None if it is not known."""
    return class_of(unwrapped(cfg))


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

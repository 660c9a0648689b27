"""How heads of MMDetection and MMPretrain give their class logits, and what they make scores of."""

from collections.abc import Iterator
from typing import NamedTuple

from mmdet.models.dense_heads import SABLRetinaHead, TOODHead, YOLOXHead
from mmdet.models.dense_heads.anchor_free_head import AnchorFreeHead
from mmdet.models.dense_heads.anchor_head import AnchorHead
from mmdet.models.dense_heads.detr_head import DETRHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead, DIIHead, MultiInstanceBBoxHead
from torch import Tensor, nn

from apa_mmdet.models.losses import SigmoidLink

from .base import Channels
from .errors import CalibrationError

DENSE_HEADS = (AnchorHead, AnchorFreeHead, DETRHead, SABLRetinaHead, YOLOXHead)  # their first output is class logits
SIGMOID = SigmoidLink()  # has no parameters
WITHOUT_LOGITS = (TOODHead, MultiInstanceBBoxHead)  # scores, and logits of several objects of a RoI
PROPOSALS = 'rpn_head'  # tells objects from background, not classes


class Scoring(NamedTuple):
    """Of the logits that a head gives: the link from each to a score, None for softmax, and channels without class."""

    link: nn.Module | None
    extra: int


def find_classifiers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The heads that score classes, with their paths; of heads within another one only that.

    Raises:
        CalibrationError: ``no-logits`` for one that gives something else.
    """
    found: list[str] = []
    for path, head in model.named_modules():
        if _is_classifier(head) and PROPOSALS not in path.split('.') and not _within(path, found):
            if isinstance(head, WITHOUT_LOGITS):
                raise CalibrationError.of('no-logits', head=type(head).__name__)
            found.append(path)
            yield path, head


def _is_classifier(head: nn.Module) -> bool:
    if isinstance(head, BBoxHead):
        return getattr(head, 'with_cls', True)  # SABLHead has no such option
    of_mmpretrain = hasattr(head, 'loss_module') and hasattr(head, 'num_classes')
    return isinstance(head, DENSE_HEADS) or of_mmpretrain


def _within(path: str, found: list[str]) -> bool:
    return any(path.startswith(f'{outer}.') or not outer for outer in found)


def scoring_of(head: nn.Module) -> Scoring:
    """How a head makes scores of its logits.

    Raises:
        CalibrationError: ``unknown-link`` for a loss of somebody else that makes the scores itself.
    """
    loss = getattr(head, 'loss_cls', None)
    if isinstance(head, BBoxHead) and head.custom_cls_channels:
        extra = loss.get_cls_channels(head.num_classes) - head.num_classes
        link = getattr(loss, 'link', None)
        if isinstance(link, nn.Module):
            return Scoring(link, extra)
        use_sigmoid = getattr(loss, 'use_sigmoid', None)
        if use_sigmoid is None:
            raise CalibrationError.of('unknown-link', head=type(head).__name__, loss=type(loss).__name__)
        return Scoring(SIGMOID if use_sigmoid else None, extra)
    if isinstance(head, BBoxHead) and not isinstance(head, DIIHead):
        return Scoring(None, 1)  # BBoxHead takes the softmax whatever its loss
    if hasattr(head, 'loss_module'):
        return Scoring(SIGMOID if hasattr(head, 'thr') else None, 0)  # of several labels; of one
    use_sigmoid = getattr(head, 'use_sigmoid_cls', getattr(loss, 'use_sigmoid', False))
    return Scoring(SIGMOID, 0) if use_sigmoid else Scoring(None, 1)


def channels_of(head: nn.Module, scoring: Scoring, logits: Tensor, level: int | None) -> Channels:
    """How the channels of logits follow each other.

    Args:
        head: which gave them.
        scoring: of the head.
        logits: (…, C + extra), or (B, priors · (C + extra), H, W) of a level of a pyramid.
        level: its number; None for logits of RoIs, queries or images.

    Raises:
        CalibrationError: ``unknown-layout`` if they have another shape.
    """
    is_map = level is not None and logits.dim() == 4
    priors = head.prior_generator.num_base_priors[level] if is_map and hasattr(head, 'prior_generator') else 1
    channels = head.num_classes + scoring.extra
    if logits.shape[1 if is_map else -1] != priors * channels:
        shape, name = tuple(logits.shape), type(head).__name__
        raise CalibrationError.of('unknown-layout', head=name, shape=shape, channels=channels)
    return Channels(scoring.extra, priors, 2 if is_map else 0)

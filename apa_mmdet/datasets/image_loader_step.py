"""Finds the transform of a pipeline that loads the image."""

from collections.abc import Sequence

from mmcv.transforms import LoadImageFromFile
from mmdet.registry import TRANSFORMS

from apa_mmdet.utils.registered_classes import class_of


def image_loader_step(pipeline: Sequence[dict]) -> dict | None:
    """The transform that loads the image: a LoadImageFromFile, or one of the user's that is named after it.

    Example:
        >>> image_loader_step([dict(type='LoadAnnotations'), dict(type='mmdet.LoadImageFromNDArray')])
        {'type': 'mmdet.LoadImageFromNDArray'}
    """
    for step in pipeline:
        cls = class_of(step, TRANSFORMS)
        name = cls.__name__ if cls else str(step.get('type'))  # one that is not known fails where it is built
        if 'LoadImage' in name or (cls and issubclass(cls, LoadImageFromFile)):
            return step
    return None

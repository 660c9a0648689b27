"""Helpers for models inside wrappers."""

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn


def unwrap_model(model: nn.Module) -> nn.Module:
    """Returns the model inside wrappers of distributed training and test-time augmentation, or the model itself."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.get_submodule('module')
    return model


def input_channels(model: nn.Module) -> int:
    """Returns the channels of the images that a detector takes: those of the first convolution of its backbone.

    Example:
        >>> detector = nn.Module()
        >>> detector.backbone = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3))
        >>> input_channels(detector)
        4
    """
    for module in model.get_submodule('backbone').modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return 3

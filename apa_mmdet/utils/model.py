"""Helpers for models inside wrappers."""

from mmengine.model import is_model_wrapper
from torch import nn


def unwrap_model(model: nn.Module) -> nn.Module:
    """The model itself, whether DistributedDataParallel or its like stands around it or not."""
    return model.module if is_model_wrapper(model) else model

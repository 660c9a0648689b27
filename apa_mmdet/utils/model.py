"""Helpers for models inside wrappers."""

from mmengine.model import is_model_wrapper
from torch import nn


def unwrap_model(model: nn.Module) -> nn.Module:
    """Returns the model inside DistributedDataParallel or another wrapper, or the model itself."""
    inner = model.module if is_model_wrapper(model) else model
    assert isinstance(inner, nn.Module)
    return inner

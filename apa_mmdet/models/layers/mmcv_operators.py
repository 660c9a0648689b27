"""Gives mmcv's operators what they compute right, in models of any dtype and memory format.

mmcv's code for CUDA takes float32, float64 and float16 but no bfloat16, NMS float32 alone; its code for a CPU takes
less. None but deformable attention's asks for the memory format: RoIAlign, CARAFE and deformable convolution read
channels_last tensors as if they were contiguous, and give wrong numbers without an error on either device.
"""

from functools import cache
from typing import Any

import torch
from mmengine.utils import apply_to
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

# operators are called in modules of these packages: RoIAlign, DCNv2, MultiScaleDeformableAttention …, and FocalLoss
CALLERS = 'mmcv.ops.', 'mmdet.models.losses.'
TAKES_ANY = 'apa_mmdet.'  # subclasses here see to it themselves


def guard_operators(model: nn.Module) -> list[RemovableHandle]:
    """Lets the modules that call mmcv's operators take half precisions, under autocast, and channels_last.

    Their tensors, and what their layers make of them (offsets, masks, sampled values), become contiguous, and float32
    where they are 16-bit, in which a coordinate above 256 (bfloat16) or 2048 pixels would be even; tensors that they
    return get the dtype of the first one that they were given. A functional call outside such a module, as NMS and
    the ``deform_conv2d`` of mmdet's TOODHead, is out of reach.

    Args:
        model: any model; hooks are added to its modules.

    Returns:
        The hooks' handles: ``remove()`` of each undoes it.

    Example:
        >>> from mmcv.ops import RoIAlign
        >>> align, maps = RoIAlign(1), torch.arange(12.0).reshape(1, 3, 2, 2)
        >>> boxes = torch.tensor([[0.0, 0, 0, 2, 2]])
        >>> wanted, handles = align(maps, boxes), guard_operators(align)
        >>> got = align(maps.to(torch.bfloat16, memory_format=torch.channels_last), boxes)
        >>> got.dtype, torch.equal(got.float(), wanted)
        (torch.bfloat16, True)
    """
    handles = []
    for module in model.modules():
        if calls_operators(type(module)):
            handles += _guard(module)
    return handles


def to_channels_last(model: nn.Module) -> nn.Module:
    """Converts a model to channels_last, in which a GPU convolves 16-bit types fastest, and guards mmcv's operators.

    Weights, results and their dtypes are the same, but for rounding.

    Args:
        model: any model, before or after its weights are loaded; it is changed.

    Returns:
        The model.
    """
    guard_operators(model)
    model = model.to(memory_format=torch.channels_last)
    for module in model.modules():
        if calls_operators(type(module)):  # DeformConv2d refuses another weight
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.contiguous()
    return model


@cache  # training in mixed precision asks in each step
def calls_operators(cls: type) -> bool:
    """Whether it is a module of mmcv or mmdet, or a subclass, that may call an operator of mmcv."""
    return not cls.__module__.startswith(TAKES_ANY) and any(base.__module__.startswith(CALLERS) for base in cls.__mro__)


def _guard(module: nn.Module) -> list[RemovableHandle]:
    dtype: torch.dtype | None = None

    def before(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        nonlocal dtype
        dtype = next((x.dtype for x in (*args, *kwargs.values()) if _is_float(x)), None)
        return operand(args), operand(kwargs)

    def after(module: nn.Module, args: tuple, result: Any) -> Any:
        return apply_to(result, _is_float, lambda x: x.to(dtype or x.dtype))

    handles = [module.register_forward_pre_hook(before, with_kwargs=True)]
    if not any(base.__module__.startswith(CALLERS[1]) for base in type(module).__mro__):  # a loss stays float32
        handles.append(module.register_forward_hook(after))
    return handles + [layer.register_forward_hook(_to_operand) for layer in module.children()]


def operand(value: Any) -> Any:
    """The value with each floating-point tensor in it contiguous, and float32 where it is 16-bit."""
    return apply_to(value, _is_float, lambda x: x.to(torch.promote_types(x.dtype, torch.float32)).contiguous())


def _to_operand(layer: nn.Module, args: tuple, result: Any) -> Any:
    return operand(result)


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()

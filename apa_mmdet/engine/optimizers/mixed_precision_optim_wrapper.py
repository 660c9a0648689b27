"""Mixed precision on any device."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from numbers import Real
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.utils import apply_to
from torch import Tensor, nn

from apa_mmdet.models.layers import guard_operators
from apa_mmdet.utils.model import unwrap_model

try:
    from torch.amp import GradScaler
except ImportError:  # before torch 2.3, only for CUDA
    from torch.cuda.amp import GradScaler as CudaGradScaler

    def GradScaler(device: str, enabled: bool, **kwargs) -> CudaGradScaler:
        if enabled and device != 'cuda':
            raise ValueError(
                f"float16 on {device} needs torch 2.3, and this is {torch.__version__}; use dtype='bfloat16'"
            )
        return CudaGradScaler(enabled=enabled, **kwargs)


DTYPES = 'float16', 'bfloat16'


@OPTIM_WRAPPERS.register_module()
class MixedPrecisionOptimWrapper(AmpOptimWrapper):
    """MMEngine's AmpOptimWrapper for every device that torch's autocast supports, including the CPU.

    Weights and optimizer stay float32. float16 needs its loss scaled, and steps that overflow are skipped until the
    scale fits; bfloat16 has float32's range and needs neither. mmcv's operators (NMS, RoIAlign, CARAFE, deformable
    convolution and attention) and mmdet's losses compute in float32, see
    :func:`~apa_mmdet.models.layers.guard_operators`.

    Args:
        dtype: ``bfloat16`` or ``float16``; on a CPU, float16 needs torch 2.3.
        loss_scale: for float16: ``dynamic``, a fixed number above 0, or the arguments of torch's GradScaler.
        **kwargs: of MMEngine's OptimWrapper: ``optimizer``, ``clip_grad``, ``accumulative_counts``.

    Raises:
        ValueError: for another dtype, or one that this torch does not support on this device; for another
            ``loss_scale``.

    Example:
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> wrapper = MixedPrecisionOptimWrapper(optimizer=torch.optim.SGD([weight], lr=0.5))
        >>> with wrapper.optim_context(torch.nn.Identity()):
        ...     loss = weight @ torch.ones(2)
        >>> wrapper.update_params(loss)
        >>> loss.dtype, weight.dtype, weight.tolist()
        (torch.bfloat16, torch.float32, [0.5, 0.5])
    """

    def __init__(self, dtype: str = 'bfloat16', loss_scale: str | float | dict = 'dynamic', **kwargs) -> None:
        OptimWrapper.__init__(self, **kwargs)  # AmpOptimWrapper's refuses a machine without accelerator
        if dtype not in DTYPES:
            raise ValueError(f'MixedPrecisionOptimWrapper: dtype must be one of {", ".join(DTYPES)}, got {dtype!r}')
        self.device, self.cast_dtype = get_device(), getattr(torch, dtype)
        fixed = _fixed_scale(loss_scale)
        options = loss_scale if isinstance(loss_scale, dict) else {} if fixed is None else dict(init_scale=fixed)
        self._scale_update_param = fixed
        self.loss_scaler = GradScaler(self.device, enabled=dtype == 'float16', **options)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocasts, without synchronizing gradients that are accumulated."""
        with ExitStack() as stack:
            stack.enter_context(OptimWrapper.optim_context(self, model))
            # not MMEngine's, which refuses float16 on a CPU
            stack.enter_context(torch.autocast(self.device, self.cast_dtype))
            for part in _before_operators(model):
                stack.callback(part.register_forward_hook(_to_float).remove)
            for handle in guard_operators(model):
                stack.callback(handle.remove)
            yield


def _fixed_scale(loss_scale: Any) -> float | None:
    """The fixed scale; None where GradScaler finds one."""
    if loss_scale == 'dynamic' or isinstance(loss_scale, dict):
        return None
    if isinstance(loss_scale, Real) and not isinstance(loss_scale, bool) and 0 < loss_scale < math.inf:
        return float(loss_scale)
    raise ValueError(
        "MixedPrecisionOptimWrapper: loss_scale must be 'dynamic', a number above 0, or a dict of torch's GradScaler "
        f'arguments such as dict(init_scale=512.0), got {loss_scale!r}'
    )


def _before_operators(model: nn.Module) -> Iterator[nn.Module]:
    """Yields the parts of a detector whose outputs reach mmcv's operators as functions: its neck and dense heads.

    NMS and RoIAlign support no half precision on a CPU and no bfloat16 on any device, and bfloat16 would round a
    coordinate above 256 pixels to an even number.
    """
    detector = unwrap_model(model)
    without = {'data_preprocessor', 'roi_head'} | ({'backbone'} if getattr(detector, 'neck', None) else set())
    return (part for name, part in detector.named_children() if name not in without)


def _to_float(part: nn.Module, inputs: tuple, outputs: Any) -> Any:
    return apply_to(outputs, lambda value: isinstance(value, Tensor) and value.is_floating_point(), Tensor.float)

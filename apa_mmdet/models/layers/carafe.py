import torch
import torch.nn.functional as F
from mmcv.ops import get_compiling_cuda_version
from mmcv.ops.carafe import CARAFEPack
from mmdet.registry import MODELS
from torch import Tensor

from apa_mmdet.ops.carafe import carafe

from .mmcv_operators import operand


@MODELS.register_module()
class DeviceAgnosticCARAFEPack(CARAFEPack):
    """mmcv's ``CARAFEPack`` on every device.

    mmcv's operator exists for CUDA only; elsewhere, and for an empty batch, :func:`~apa_mmdet.ops.carafe.carafe` takes
    its place. mmcv's computes 16-bit types in float32 here, and gets contiguous tensors. Arguments, parameters
    (``channel_compressor``, ``content_encoder``) and result are those of ``CARAFEPack``.

    Shape: (N, channels, H, W) → (N, channels, s·H, s·W); N may be 0, as in a step without foreground.
    """

    def kernel_normalizer(self, mask: Tensor) -> Tensor:
        """Applies the softmax over the k² weights of each output pixel.

        With N = 0 a view in mmcv's version fails, and so does the backward of ``torch.pixel_shuffle``.
        """
        s = self.scale_factor
        mask = mask.unflatten(1, (self.up_group * self.up_kernel**2, s, s)).permute(0, 1, 4, 2, 5, 3)
        grouped = mask.flatten(4, 5).flatten(2, 3).unflatten(1, (self.up_group, self.up_kernel**2))
        return F.softmax(grouped, dim=2, dtype=mask.dtype).flatten(1, 2)

    def feature_reassemble(self, x: Tensor, mask: Tensor) -> Tensor:
        mask = mask.to(x.dtype)
        if has_cuda_operator(x) and len(x) and not torch.jit.is_tracing():
            # mmcv's code reads any layout as NCHW, and takes no bfloat16
            x, mask, dtype = operand(x), operand(mask), x.dtype
            return super().feature_reassemble(x, mask).to(dtype)
        return carafe(x, mask, self.up_kernel, self.up_group, self.scale_factor)


def has_cuda_operator(x: Tensor) -> bool:
    """Whether mmcv was built for CUDA, and the tensor is there."""
    return x.is_cuda and get_compiling_cuda_version() != 'not available'

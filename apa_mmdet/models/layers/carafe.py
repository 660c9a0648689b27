import torch
import torch.nn.functional as F
from mmcv.ops import get_compiling_cuda_version
from mmcv.ops.carafe import CARAFEPack
from mmdet.registry import MODELS
from torch import Tensor

from apa_mmdet.ops.carafe import carafe


@MODELS.register_module()
class DeviceAgnosticCARAFEPack(CARAFEPack):
    """mmcv's ``CARAFEPack`` on every device.

    mmcv's operator exists for CUDA only; elsewhere, and for an empty batch, :func:`~apa_mmdet.ops.carafe.carafe` takes
    its place. Arguments, parameters (``channel_compressor``, ``content_encoder``) and result are those of
    ``CARAFEPack``.

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
        built = x.is_cuda and get_compiling_cuda_version() != 'not available'
        if built and len(x) and not torch.jit.is_tracing():
            return super().feature_reassemble(x, mask)
        return carafe(x, mask, self.up_kernel, self.up_group, self.scale_factor)

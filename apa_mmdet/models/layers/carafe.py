"""CARAFE upsampling on any device.

Letters: N maps, C channels in G groups, H x W pixels, s scale, k kernel size.

The operator is a sum over k² shifted copies of the features, each weighted by one channel of the masks. It is computed
as one small matrix product for each row of a map: the k input rows around it, flattened to (C, k·(W + k − 1)), a view
of the padded map, times a banded matrix (k·(W + k − 1), s·W·s) that holds the masks, make the s output rows. Maps are
stacked below one another, so that one batched product serves many. The band wastes (W + k − 1)/k of the arithmetic, and
wins by far. Forward + backward, the better of two, of 256 x 256 x 14 x 14, k = 5, s = 2 on one core of a shared 2-core
Xeon (PyTorch 2.13 CPU, float32); of the peak, 0.45 GiB are the results and their gradients:

    this                                0.8 s      0.7 GiB
    unfold + matmul, 4 maps at a time   5.3 s      0.6 GiB
    unfold + matmul, all at once        6.6 s      3.0 GiB
    loop over the 25 shifts              26 s      1.1 GiB
"""

import torch.nn.functional as F
from mmcv.ops import get_compiling_cuda_version
from mmcv.ops.carafe import CARAFEPack
from mmdet.registry import MODELS
from torch import Tensor

from apa_mmdet.ops.carafe import carafe


# under the default scope `mmdet`, its registry is asked before the root, where mmcv's `carafe` is registered
@MODELS.register_module(name='carafe')
class DeviceAgnosticCARAFEPack(CARAFEPack):
    """mmcv's ``CARAFEPack`` for every device: mmcv's operator, CUDA code only, where it can run, else :func:`carafe`.

    Arguments, parameters (``channel_compressor``, ``content_encoder``) and result are those of ``CARAFEPack``. Input
    (N, channels, H, W), output (N, channels, s·H, s·W); N may be 0, as it is in a step without foreground.
    """

    def kernel_normalizer(self, mask: Tensor) -> Tensor:
        """Softmax over the k² weights of each output pixel.

        For N = 0 mmcv's own has a view that fails, and torch's ``pixel_shuffle`` a backward that does.
        """
        s = self.scale_factor
        mask = mask.unflatten(1, (self.up_group * self.up_kernel**2, s, s)).permute(0, 1, 4, 2, 5, 3)
        grouped = mask.flatten(4, 5).flatten(2, 3).unflatten(1, (self.up_group, self.up_kernel**2))
        return F.softmax(grouped, dim=2, dtype=mask.dtype).flatten(1, 2)

    def feature_reassemble(self, x: Tensor, mask: Tensor) -> Tensor:
        mask = mask.to(x.dtype)
        if x.is_cuda and len(x) and get_compiling_cuda_version() != 'not available':
            return super().feature_reassemble(x, mask)
        return carafe(x, mask, self.up_kernel, self.up_group, self.scale_factor)

import math

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.dist import get_world_size
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ... import ops
from ...ops.layout import compute_dtype
from .acon import AconParameters


@MODELS.register_module()
class MetaAconC(AconParameters):
    r"""Meta-ACON: ACON-C whose β a small network finds from the input, for each image and channel.

    .. math::
        S(x) &= (p_1 - p_2) x \cdot σ(β (p_1 - p_2) x) + p_2 x \\
        β &= σ(\mathrm{BN}(\mathrm{fc}_2(\mathrm{BN}(\mathrm{fc}_1(\mathrm{mean}_{H, W}(x))))))

    Source: Ma et al., *Activate or Not: Learning Customized Activation*, CVPR 2021, arXiv:2009.04759, section 3.3.
    fc₁ and fc₂ are 1x1 convolutions of C → width → C channels; p₁ and p₂ start from N(0, 1). Its parameters have the
    published names, and published weights load. Dtypes and limits as :func:`apa_mmdet.ops.acon`; β itself is computed
    in the dtype of the convolutions' weights, whatever autocast says. An ``init_cfg`` of the module around that
    names ``Conv2d`` or ``BatchNorm2d`` draws the weights of these two layers as well.

    A batch norm in training mode takes its statistics over the images of the batch, as every channel has one value an
    image (of all processes with SyncBN). Fewer than two images have none: then the running ones serve, and stay as
    they are. So they do where ``norm_eval=True`` puts the backbone's batch norms in eval mode.

    Args:
        num_features: C, the size of dimension 1 of the input, which may have any number of dimensions from 2 on. A
            site of a backbone fills it in.
        reduction: width is C/reduction, but at least 16.
        norm_cfg: recipe of both norms, batch or group norms. None for the form without norms, whose convolutions have
            no biases.
        inplace: accepted for ConvModule, which passes it. The input is needed in the backward, so the computation is
            never in place.

    Raises:
        ValueError: if ``num_features`` is not given, or it or ``reduction`` is below 1; at the first input, if that has
            other channels.

    Example:
        >>> act = MetaAconC(3)
        >>> _ = nn.init.ones_(act.p1), nn.init.zeros_(act.p2), nn.init.zeros_(act.bn2.weight)      # β = σ(0) = 1/2
        >>> act(torch.full((1, 3), 2.)).tolist()      # 2·σ(1)
        [[1.4621..., 1.4621..., 1.4621...]]
    """

    learnt = ('p1', 'p2')

    def __init__(
        self, num_features: int, reduction: int = 16, norm_cfg: dict | None = dict(type='BN'), inplace: bool = False
    ) -> None:
        super().__init__(num_features)
        if reduction < 1:
            raise ValueError(f'MetaAconC: reduction must be at least 1, got {reduction}')
        width = max(16, num_features // reduction)
        self.fc1 = nn.Conv2d(num_features, width, 1, bias=norm_cfg is not None)
        self.fc2 = nn.Conv2d(width, num_features, 1, bias=norm_cfg is not None)
        self.bn1 = nn.Identity() if norm_cfg is None else build_norm_layer(norm_cfg, width)[1]
        self.bn2 = nn.Identity() if norm_cfg is None else build_norm_layer(norm_cfg, num_features)[1]

    def beta_of(self, x: Tensor) -> Tensor:
        """β of each image and channel, (N, C)."""
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise ValueError(
                f'MetaAconC of {self.num_features} channels got an input of shape {tuple(x.shape)}; '
                f'it takes (N, {self.num_features}, …)'
            )
        if x.dim() > 2:  # a mean, but that one's backward writes a whole gradient
            dims = tuple(range(2, x.dim()))
            x = x.sum(dims, dtype=compute_dtype(x.dtype)) / math.prod(x.shape[2:])
        x = x.to(self.fc1.weight.dtype)[..., None, None]
        with torch.autocast('cpu' if x.device.type == 'meta' else x.device.type, enabled=False):
            return _normalise(self.bn2, self.fc2(_normalise(self.bn1, self.fc1(x)))).flatten(1).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return ops.acon(x, self.p1, self.p2, self.beta_of(x))


def _normalise(norm: nn.Module, x: Tensor) -> Tensor:
    shared = isinstance(norm, nn.SyncBatchNorm) and get_world_size() > 1
    if isinstance(norm, _BatchNorm) and norm.training and len(x) < 2 and not shared:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    return norm(x)

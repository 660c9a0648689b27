from typing import Optional

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS
from torch import Tensor, nn

from ... import ops
from ...ops.layout import compute_dtype
from .base import channel_count


@MODELS.register_module()
class MetaAconC(nn.Module):
    r"""Meta-ACON: ACON-C whose β a small network finds from the input, for each image and channel.

    .. math::
        S(x) &= (p_1 - p_2) x \cdot σ(β (p_1 - p_2) x) + p_2 x \\
        β &= σ(\mathrm{BN}(\mathrm{fc}_2(\mathrm{BN}(\mathrm{fc}_1(\mathrm{mean}_{H, W}(x))))))

    Source: Ma et al., *Activate or Not: Learning Customized Activation*, CVPR 2021, arXiv:2009.04759, section 3.3.
    fc₁ and fc₂ are 1x1 convolutions of C → width → C channels; p₁ and p₂ start from N(0, 1). Its parameters have the
    published names and shapes. Dtypes and limits as :func:`apa_mmdet.ops.acon`; β itself is computed in the dtype
    of the convolutions' weights, or what autocast makes of it.

    A batch norm in training mode takes its statistics over the images of the batch, as every channel has one value an
    image. Fewer than two images have none: then the running ones serve, and stay as they are. So they do where
    ``norm_eval=True`` puts the backbone's batch norms in eval mode.

    Args:
        num_features: C, the size of dimension 1 of the input, which may have any number of dimensions from 2 on. A
            site of a backbone fills it in.
        reduction: width is C/reduction, but at least 16.
        norm_cfg: recipe of both norms, batch or group norms. None for the form without norms, whose convolutions have
            no biases.
        inplace: accepted for ConvModule, which passes it. The input is needed in the backward, so the computation is
            never in place.

    Raises:
        ValueError: if ``num_features`` is not given or below 1; at the first input, if that has other channels.

    Example:
        >>> act = MetaAconC(3)
        >>> _ = nn.init.ones_(act.p1), nn.init.zeros_(act.p2), nn.init.zeros_(act.bn2.weight)      # β = σ(0) = 1/2
        >>> act(torch.full((1, 3), 2.)).tolist()      # 2·σ(1)
        [[1.4621..., 1.4621..., 1.4621...]]
    """

    def __init__(self, num_features: int, reduction: int = 16, norm_cfg: Optional[dict] = dict(type='BN'),
                 inplace: bool = False) -> None:
        super().__init__()
        self.num_features = channel_count(self, num_features)
        width = max(16, num_features // reduction)
        self.p1 = nn.Parameter(torch.randn(1, num_features, 1, 1))
        self.p2 = nn.Parameter(torch.randn(1, num_features, 1, 1))
        self.fc1 = nn.Conv2d(num_features, width, 1, bias=norm_cfg is not None)
        self.fc2 = nn.Conv2d(width, num_features, 1, bias=norm_cfg is not None)
        self.bn1 = nn.Identity() if norm_cfg is None else build_norm_layer(norm_cfg, width)[1]
        self.bn2 = nn.Identity() if norm_cfg is None else build_norm_layer(norm_cfg, num_features)[1]

    def beta_of(self, x: Tensor) -> Tensor:
        """β of each image and channel, (N, C)."""
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise ValueError(f'MetaAconC of {self.num_features} channels got an input of shape {tuple(x.shape)}; '
                             f'it takes (N, {self.num_features}, …)')
        if x.dim() > 2:
            x = x.mean(tuple(range(2, x.dim())), dtype=compute_dtype(x.dtype))
        x = x.to(self.fc1.weight.dtype)[..., None, None]
        return _normalise(self.bn2, self.fc2(_normalise(self.bn1, self.fc1(x)))).flatten(1).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return ops.acon(x, self.p1.flatten(), self.p2.flatten(), self.beta_of(x))

    def extra_repr(self) -> str:
        return f'num_features={self.num_features}'


def _normalise(norm: nn.Module, x: Tensor) -> Tensor:
    if isinstance(norm, nn.BatchNorm2d) and norm.training and len(x) < 2:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    return norm(x)

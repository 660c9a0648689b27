"""Classifier by cosine. Letters: N images or RoIs, D features, C classes."""

import math

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from apa_mmdet.ops.memory_layout import without_autocast


@MODELS.register_module()
class CosineLinear(nn.Linear):
    r"""Linear layer without bias whose logits are cosines times a scale, damped where the features are short.

    .. math:: \mathrm{out} = s \left\langle \frac{x}{1 + \|x\|}, \frac{w}{\|w\|} \right\rangle

    Classes of many images cannot win by longer weights. With ``learn_scale`` s = σ², and σ is learned.

    Source: Alexandridis et al., ECCV 2024, arXiv:2407.08567, where the classifiers of long-tailed data sets are called
    ``cosine`` (s = 16) and ``lr_cosine`` (σ starts at 5: ``scale=25.0, learn_scale=True``). x/(1 + ‖x‖): Liu et al.,
    *Large-Scale Long-Tailed Recognition in an Open World*, CVPR 2019.

    Args:
        in_features, out_features: D and C; input (N, D), output (N, C).
        scale: s, or its start.
        learn_scale: whether s is learned.

    Raises:
        ValueError: if ``scale`` is not positive.

    Example:
        >>> linear = CosineLinear(2, 1)
        >>> x = linear.weight.detach() / linear.weight.detach().norm()      # of length 1: x / (1 + 1) is half as long
        >>> round(linear(x).item(), 4)
        8.0
    """

    def __init__(self, in_features: int, out_features: int, scale: float = 16.0, learn_scale: bool = False) -> None:
        if not scale > 0:
            raise ValueError(f'CosineLinear: scale must be positive, got {scale}')
        self.scale = float(scale)
        super().__init__(in_features, out_features, bias=False)  # calls reset_parameters
        if learn_scale:
            self.sigma = nn.Parameter(torch.full((1,), math.sqrt(scale)))

    def reset_parameters(self) -> None:
        """Draws the weights from N(0, 1/D): their length does not matter, only that no direction is preferred."""
        nn.init.normal_(self.weight, std=self.in_features**-0.5)
        if hasattr(self, 'sigma'):
            nn.init.constant_(self.sigma, math.sqrt(self.scale))

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x):  # logits of up to s, of which bfloat16 keeps 3 digits
            dtype = torch.promote_types(x.dtype, torch.float32)
            x, weight = x.to(dtype), self.weight.to(dtype)
            scale = self.sigma.to(dtype).square() if hasattr(self, 'sigma') else self.scale
            dot = F.linear(x / (1 + x.norm(dim=-1, keepdim=True)), weight)
            # the logits are divided by ‖w‖ and not the weights, which would need a copy of them
            return dot * (scale / weight.norm(dim=1).clamp(min=torch.finfo(dtype).tiny))

    def extra_repr(self) -> str:
        learned = ', learned' if hasattr(self, 'sigma') else ''
        return f'in_features={self.in_features}, out_features={self.out_features}, scale={self.scale:g}{learned}'

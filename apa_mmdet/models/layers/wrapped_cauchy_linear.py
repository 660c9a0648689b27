"""Classifier by angle. Letters: N RoIs, D features, C channels (classes and background)."""

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor, nn

from apa_mmdet.ops.memory_layout import without_autocast
from apa_mmdet.ops.wrapped_cauchy import wrapped_cauchy_logit


@MODELS.register_module()
class WrappedCauchyLinear(nn.Linear):
    r"""Linear layer whose logits are densities of a wrapped Cauchy distribution of the angle between input and weight.

    .. math:: c = \frac{x \cdot w}{(\|x\| + ε)(\|w\| + ε)} + b, \qquad γ = σ(g), \qquad
              \mathrm{out} = \frac{s}{2π} \cdot \frac{1 - γ^2}{1 + γ^2 - 2γc}

    A bounded heavy-tailed logit for softmax cross entropy over many classes; each class learns by g how concentrated
    its features are. ``BBoxHead(cls_predictor_cfg=dict(type='WrappedCauchyLinear'))`` makes it the classifier.

    The bias can push c above 1, towards the formula's pole at (1 + γ²)/2γ; from 1 on the logit follows its tangent
    instead. The cosine is computed in float32 under autocast too: at c = 1 the logit changes by thousands per unit of
    c, and bfloat16 would round it by 20.

    Source: *Wrapped Cauchy Distributed Angular Softmax for Long-Tailed Visual Recognition*, ICML 2023.

    Args:
        in_features, out_features, bias: D and C, as ``nn.Linear``; input (N, D), output (N, C).
        scale: s, or its start.
        learn_scale: whether s is learned.
        eps: ε, added to the norms.

    Example:
        >>> linear = WrappedCauchyLinear(2, 1, scale=2 * torch.pi)
        >>> _ = nn.init.zeros_(linear.bias), nn.init.zeros_(linear.g)      # γ = 1/2
        >>> linear(linear.weight.detach()).item(), linear(-linear.weight.detach()).item()  # (1 + γ)/(1 − γ), inverse
        (2.999..., 0.333...)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        scale: float = 300.0,
        learn_scale: bool = False,
        eps: float = 1e-6,
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.g = nn.Parameter(torch.ones(out_features))
        self.scale_init = float(scale)
        scale = torch.tensor(self.scale_init)
        if learn_scale:
            self.scale = nn.Parameter(scale)
        else:
            self.register_buffer('scale', scale, persistent=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x):
            dtype = torch.promote_types(x.dtype, torch.float32)
            x, weight, g, scale = (t.to(dtype) for t in (x, self.weight, self.g, self.scale))
            bias = torch.zeros_like(g) if self.bias is None else self.bias.to(dtype)
            # the logits are divided by ‖w‖ and not the weights, which would need a copy of them
            dot = F.linear(x / (x.norm(dim=1, keepdim=True) + self.eps), weight)
            return wrapped_cauchy_logit(dot, 1 / (weight.norm(dim=1) + self.eps), bias, g, scale)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, scale={self.scale_init:g}'

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class LearnableNormedConv2d(nn.Conv2d):
    """Convolution by cosine similarity with a learnable temperature τ.

    It serves as mask predictor: ``FCNMaskHead(predictor_cfg=dict(type='LearnableNormedConv2d'))``.

        out = conv(τ²·x / (‖x‖ + ε), w / (‖w‖ + ε)) + bias,      norms over the channels of each pixel

    For a 1x1 kernel that is τ² times the cosine of input and weight. The fixed variant is mmdet's
    ``NormedConv2d()``, times 20.

    Source: mask head of Alexandridis et al., ECCV 2024, arXiv:2407.08567; the fixed one, Wang et al., *Seesaw Loss*,
    CVPR 2021, section 3.3.

    Args:
        *args, **kwargs: as ``nn.Conv2d``; input (N, C, H, W).
        temperature: start of τ.
        eps: ε, added to the norms.

    Example:
        >>> conv = LearnableNormedConv2d(2, 1, 1, bias=False)
        >>> out = conv(conv.weight.detach() * 3)      # parallel to the weight, so the cosine is 1: 4.5²
        >>> round(out.item(), 3)
        20.25
    """

    def __init__(self, *args, temperature: float = 4.5, eps: float = 1e-6, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.temperature = nn.Parameter(torch.tensor(float(temperature)))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight / (self.weight.norm(dim=1, keepdim=True) + self.eps)
        # τ² is multiplied into the divisor, one value a pixel, which saves a pass over the channels;
        # in float32, because it exceeds float16 where the input is nearly zero
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        wide = wide * (self.temperature.square() / (wide.norm(dim=1, keepdim=True) + self.eps))
        return self._conv_forward(wide.to(x.dtype), weight, self.bias)

from mmdet.models.backbones.resnext import Bottleneck
from mmdet.models.layers import ResLayer
from mmdet.registry import MODELS

from .se_resnet import SEBottleneck, SEResNet


class SEResNeXtBottleneck(SEBottleneck, Bottleneck):
    """SEBottleneck whose 3x3 convolution is grouped."""


@MODELS.register_module()
class SEResNeXt(SEResNet):
    """ResNeXt with squeeze and excitation in every block and a slot for every activation.

    In stage s, counted from 0, the 3x3 convolutions have ``groups`` groups of ``base_width · 2^s`` channels each.

    Source: Xie et al., *Aggregated Residual Transformations for Deep Neural Networks*, CVPR 2017, arXiv:1611.05431;
    activations and attention as in :class:`~apa_mmdet.models.backbones.SEResNet`, whose shapes and errors it shares.

    Args:
        depth: 50, 101 or 152.
        groups: groups of each 3x3 convolution (the cardinality).
        base_width: channels of a group in the first stage. 32 groups of 4 (32x4d) are usual at depth 50, 32x8d at 101.
        kwargs: all other arguments of :class:`~apa_mmdet.models.backbones.SEResNet`.

    Example:
        >>> net = SEResNeXt(50)
        >>> net.layer1[0].conv2.weight.shape             # 32 groups of 4 channels
        torch.Size([128, 4, 3, 3])
    """

    arch_settings = {
        50: (SEResNeXtBottleneck, (3, 4, 6, 3)),
        101: (SEResNeXtBottleneck, (3, 4, 23, 3)),
        152: (SEResNeXtBottleneck, (3, 8, 36, 3)),
    }

    def __init__(self, depth: int, groups: int = 32, base_width: int = 4, **kwargs) -> None:
        self.groups = groups
        self.base_width = base_width
        super().__init__(depth, **kwargs)

    def make_res_layer(self, **kwargs) -> ResLayer:
        return super().make_res_layer(
            groups=self.groups, base_width=self.base_width, base_channels=self.base_channels, **kwargs
        )

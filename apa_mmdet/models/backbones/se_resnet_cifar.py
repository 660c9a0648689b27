import torch.nn.functional as F
from mmdet.models.layers import ResLayer
from mmdet.registry import MODELS
from torch import Tensor, nn

from .se_resnet import SEBasicBlock, SEResNet


class PaddedShortcut(nn.Module):
    """The shortcut of option A: every ``stride``-th pixel, and channels of zeros on both sides up to ``channels``."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        missing = self.channels - x.shape[1]
        return F.pad(x, (0, 0, 0, 0, missing // 2, missing - missing // 2))

    def extra_repr(self) -> str:
        return f'{self.channels}, stride={self.stride}'


@MODELS.register_module()
class SEResNetCifar(SEResNet):
    """SE-ResNet for images of 32x32 pixels: a 3x3 stem without pooling, 3 stages of 16, 32 and 64 channels.

    Source: He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016, section 4.2 (a stage has (depth − 2)/6
    blocks of two convolutions, shortcuts of option A have no parameters); activations and attention as in
    :class:`~apa_mmdet.models.backbones.SEResNet`, whose errors it shares. SE follows the second norm, with ratio 4.

    Args:
        depth: 20, 32, 44, 56 or 110.
        act_cfg: as of SEResNet; the sites are ``stem``, ``conv1`` and ``out``.
        se_cfg: as of SEResNet; ``ratio`` is 4 by default.
        base_channels: channels of the stem and the first stage.
        out_indices: stages that are returned, by default the last.
        kwargs: all other arguments of SEResNet.

    Shape: (N, 3, H, W) → (N, 16·2^i, H/2^i, W/2^i) for each stage i of ``out_indices``.

    Example:
        >>> import torch
        >>> (features,) = SEResNetCifar(20)(torch.zeros(1, 3, 32, 32))
        >>> tuple(features.shape)
        (1, 64, 8, 8)
    """

    arch_settings = {depth: (SEBasicBlock, ((depth - 2) // 6,) * 3) for depth in (20, 32, 44, 56, 110)}
    stem_strides = (1,)

    def __init__(
        self,
        depth: int,
        act_cfg: dict = dict(type='AGLU'),
        se_cfg: dict | None = dict(),
        base_channels: int = 16,
        out_indices: tuple[int, ...] = (2,),
        **kwargs,
    ) -> None:
        if se_cfg is not None and 'type' not in se_cfg:
            se_cfg = dict(dict(ratio=4), **se_cfg)
        super().__init__(
            depth,
            act_cfg,
            se_cfg,
            num_stages=3,
            strides=(1, 2, 2),
            dilations=(1, 1, 1),
            base_channels=base_channels,
            stem_channels=base_channels,
            out_indices=out_indices,
            **kwargs,
        )

    def _make_stem_layer(self, in_channels: int, stem_channels: int) -> None:
        super()._make_stem_layer(in_channels, stem_channels)
        self.conv1 = nn.Conv2d(in_channels, stem_channels, 3, padding=1, bias=False)
        self.maxpool = nn.Identity()

    def make_res_layer(self, **kwargs) -> ResLayer:
        layer = super().make_res_layer(**kwargs)
        first = layer[0]
        if first.downsample is not None:
            first.downsample = PaddedShortcut(first.conv2.out_channels, first.stride)
        return layer

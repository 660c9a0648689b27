import torch
from mmcv.cnn import build_norm_layer
from mmdet.registry import MODELS
from torch import Tensor, nn

from apa_mmdet.models.activations import build_activation
from apa_mmdet.structures.valid_region import ValidRegion, clear_outside


@MODELS.register_module()
class CBAM(nn.Module):
    """Convolutional block attention module: a gate per channel, then a gate per position.

        x₁ = x · g(MLP(mean of x over H, W) + MLP(max of x over H, W))         one gate for each of the C channels
        x₂ = x₁ · h(norm(conv([max of x₁ over C, mean of x₁ over C])))         one gate for each of the H·W positions

    with MLP = norm → Linear(C → C/ratio) → act → Linear(C/ratio → C), shared, and gates g and h that have parameters of
    their own.

    Sources: Woo et al., *CBAM: Convolutional Block Attention Module*, ECCV 2018, arXiv:1807.06521, equations 1 to 3;
    norms, biases and the APA gates: Alexandridis et al., ECCV 2024, arXiv:2407.08567, which the defaults follow; the
    equations of the former are ``norm_cfg=None, bias=False, spatial_norm_cfg=None, gate_cfg=dict(type='Sigmoid')``.

    Args:
        channels: C of the input and output, shape (N, C, H, W).
        ratio: C/ratio is the width between the two linear maps (at least 1).
        kernel_size: of the convolution; odd.
        act_cfg: activation between the linear maps.
        norm_cfg: norm over the C pooled values, e.g. ``dict(type='LN')``; None for none.
        bias: whether the linear maps have one.
        spatial_norm_cfg: norm of the convolution's one channel, e.g. ``dict(type='BN')``; None for none.
        gate_cfg: config of both gates; the channel count, if needed, is C for the first and 1 for the second.

    Raises:
        ValueError: if ``kernel_size`` is even.

    Example:
        >>> cbam = CBAM(1, norm_cfg=None, bias=False, spatial_norm_cfg=None, gate_cfg=dict(type='Sigmoid'))
        >>> for parameter in cbam.parameters():
        ...     _ = nn.init.ones_(parameter)
        >>> cbam(torch.tensor([[[[2.]]]])).item()    # x₁ = 2·sigmoid(2 + 2) = 1.964; x₁·sigmoid(x₁ + x₁)
        1.9261...
    """

    def __init__(
        self,
        channels: int,
        ratio: int = 16,
        kernel_size: int = 7,
        act_cfg: dict = dict(type='ReLU'),
        norm_cfg: dict | None = dict(type='LN'),
        bias: bool = True,
        spatial_norm_cfg: dict | None = dict(type='BN'),
        gate_cfg: dict = dict(type='APA'),
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f'CBAM: kernel_size must be odd, so that every position gets a gate; got {kernel_size}')
        width = max(1, channels // ratio)
        self.norm = build_norm_layer(norm_cfg, channels)[1] if norm_cfg else nn.Identity()
        self.fc1 = nn.Linear(channels, width, bias=bias)
        self.act = build_activation(act_cfg, width)
        self.fc2 = nn.Linear(width, channels, bias=bias)
        self.channel_gate = build_activation(gate_cfg, channels)
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.spatial_norm = build_norm_layer(spatial_norm_cfg, 1)[1] if spatial_norm_cfg else nn.Identity()
        self.spatial_gate = build_activation(gate_cfg, 1)

    def channel_gates(self, x: Tensor, region: ValidRegion | None = None) -> Tensor:
        """The factor for each channel, (N, C, 1, 1); mean and maximum run over ``region``, where one is given."""
        if region is None:
            # max, not amax, whose backward searches for ties and takes 17 times as long (256x100x160 on a CPU)
            mean, highest = x.mean((2, 3)), x.flatten(2).max(2).values
        else:
            mean, highest = region.mean(x).to(x.dtype), region.max(x)
        excitation = sum(self.fc2(self.act(self.fc1(self.norm(pooled)))) for pooled in (mean, highest))
        return self.channel_gate(excitation)[:, :, None, None]

    def spatial_gates(self, x: Tensor, region: ValidRegion | None = None) -> Tensor:
        """The factor for each position, (N, 1, H, W); the convolution sees ``region`` alone, where one is given."""
        pooled = torch.cat((x.max(1, keepdim=True).values, x.mean(1, keepdim=True)), 1)
        return self.spatial_gate(self.spatial_norm(self.conv(clear_outside(pooled, region))))

    def forward(self, x: Tensor, region: ValidRegion | None = None) -> Tensor:
        x = x * self.channel_gates(x, region)
        return x * self.spatial_gates(x, region)

    forward.takes_region = True

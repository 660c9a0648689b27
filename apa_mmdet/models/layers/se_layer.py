from mmcv.cnn import build_norm_layer
from mmdet.registry import MODELS
from torch import Tensor, nn

from apa_mmdet.models.activations import APA, build_activation
from apa_mmdet.ops import Norm, squeeze_excite
from apa_mmdet.structures.valid_region import ValidRegion


def build_attention(cfg: dict, channels: int) -> nn.Module:
    """Builds the attention layer of one block, by default :class:`SELayer`.

    Args:
        cfg: config, e.g. ``dict(ratio=8)`` or ``dict(type='CBAM')``, of any registered layer that takes ``channels``
            and keeps the shape of its input. If its ``forward`` has the attribute ``takes_region = True``, a second
            argument says where to pool in a padded batch: :class:`~apa_mmdet.structures.valid_region.ValidRegion`.
        channels: channel count of the block's result.

    Raises:
        KeyError: if the ``type`` is not registered.
    """
    layer_type = cfg.get('type', SELayer)
    if isinstance(layer_type, str) and MODELS.get(layer_type) is None:
        raise KeyError(
            f'se_cfg: attention {layer_type!r} is not registered; choose SELayer or CBAM, or list the module that '
            'registers yours in custom_imports'
        )
    return MODELS.build(dict(cfg, type=layer_type, channels=channels))


@MODELS.register_module()
class SELayer(nn.Module):
    """Squeeze and excitation with a slot for each of its choices.

    Global average pool → norm → Linear(C → C/ratio) → act → Linear(C/ratio → C) → dropout → gate → multiply.

    Sources: Hu et al., *Squeeze-and-Excitation Networks*, CVPR 2018; norm, dropout and the APA gate:
    Alexandridis et al., ECCV 2024, arXiv:2407.08567, which the defaults follow; the classic layer is
    ``norm_cfg=None, gate_cfg=dict(type='Sigmoid'), dropout=0.``. Unlike mmdet's ``SELayer`` (its own
    activations, 1x1 convolutions with bias) the linear maps have no bias by default, as in the official weights.

    Args:
        channels: C of the input and output, shape (N, C, H, W).
        ratio: C/ratio is the width between the two linear maps (at least 1).
        norm_cfg: norm over the C pooled values, e.g. ``dict(type='LN')``; None for none.
        act_cfg: activation between the linear maps.
        gate_cfg: maps the C excitations to gates.
        dropout: probability that an excitation is dropped before the gate, in training.
        bias: whether the linear maps have one, as in the weights of MMPretrain and timm.
    """

    def __init__(
        self,
        channels: int,
        ratio: int = 16,
        norm_cfg: dict | None = dict(type='LN'),
        act_cfg: dict = dict(type='ReLU'),
        gate_cfg: dict = dict(type='APA'),
        dropout: float = 0.1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        width = max(1, channels // ratio)
        self.norm = build_norm_layer(norm_cfg, channels)[1] if norm_cfg else nn.Identity()
        self.fc1 = nn.Linear(channels, width, bias=bias)
        self.act = build_activation(act_cfg, width)
        self.fc2 = nn.Linear(width, channels, bias=bias)
        self.dropout = nn.Dropout(dropout)
        self.gate = build_activation(gate_cfg, channels)

    def gates(self, pooled: Tensor) -> Tensor:
        """The factor for each channel, (N, C), from the pooled values, (N, C)."""
        excitation = self.fc2(self.act(self.fc1(self.norm(pooled))))
        return self.gate(self.dropout(excitation))

    def fused_gates(self, x: Tensor, norm: Norm | None) -> Tensor | None:
        """The same after ``norm`` of a map x, (N, C, H, W), in one operator; None where none serves."""
        if (
            type(self.norm) not in (nn.LayerNorm, nn.Identity)
            or type(self.act) is not nn.ReLU
            or type(self.gate) is not APA
            or type(self.fc1) is not nn.Linear  # a subclass may compute something else
            or type(self.fc2) is not nn.Linear
            or type(self.dropout) is not nn.Dropout
            or self.fc1.bias is not None
            or self.fc2.bias is not None
            or self.dropout.p >= 1
        ):
            return None
        layer = self.norm if type(self.norm) is nn.LayerNorm else None
        return squeeze_excite(
            x,
            norm,
            None if layer is None else Norm(weight=layer.weight, bias=layer.bias, eps=layer.eps),
            self.fc1.weight,
            self.fc2.weight,
            self.gate.lambda_,
            self.gate.kappa,
            self.dropout.p if self.dropout.training else 0.0,
        )

    def forward(self, x: Tensor, region: ValidRegion | None = None) -> Tensor:
        """Scales the channels of ``x``; the pool runs over ``region`` alone, where one is given."""
        pooled = x.mean((2, 3)) if region is None else region.mean(x).to(x.dtype)
        return x * self.gates(pooled)[:, :, None, None]

    forward.takes_region = True

import math

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.dist import get_world_size
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from apa_mmdet import ops
from apa_mmdet.ops.memory_layout import compute_dtype

from .acon import AconActivation


@MODELS.register_module()
class MetaAconC(AconActivation):
    r"""Meta-ACON: ACON-C whose β a small network finds from the input, for each image and channel.

    .. math::
        S(x) &= (p_1 - p_2) x \cdot σ(β (p_1 - p_2) x) + p_2 x \\
        β &= σ(\mathrm{BN}(\mathrm{fc}_2(\mathrm{BN}(\mathrm{fc}_1(\mathrm{mean}_{H, W}(x))))))

    Source: Ma et al., *Activate or Not: Learning Customized Activation*, CVPR 2021, arXiv:2009.04759, section 3.3.
    fc₁ and fc₂ are 1x1 convolutions of C → width → C channels; p₁ and p₂ start from N(0, 1). Its parameters have the
    published names, and published weights load. Dtypes and limits as :func:`apa_mmdet.ops.acon`; β itself is computed
    in float32 at least, in float64 where the input or the convolutions' weights have it, whatever autocast says. An
    ``init_cfg`` of the module around that names ``Conv2d`` or ``BatchNorm2d`` draws the weights of these two layers as
    well.

    A batch norm in training mode takes its statistics over the images of the batch, as every channel has one value an
    image (of all processes with SyncBN). Fewer than two images have none: then the running ones serve, and stay as
    they are. So they do where ``norm_eval=True`` puts the backbone's batch norms in eval mode, and where none of the
    parameters is trained: then ``train()`` leaves it in eval mode.

    Args:
        num_features: C, the size of dimension 1 of the input, which may have any number of dimensions from 2 on.
            SEResNet and SwapActivations fill it in; elsewhere it must be given.
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
        self,
        num_features: int | None = None,
        reduction: int = 16,
        norm_cfg: dict | None = dict(type='BN'),
        inplace: bool = False,
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
        dtype = torch.promote_types(compute_dtype(x.dtype), self.fc1.weight.dtype)
        run = _run if dtype == self.fc1.weight.dtype else _run_cast
        x = x.to(dtype)[..., None, None]
        with torch.autocast('cpu' if x.device.type == 'meta' else x.device.type, enabled=False):
            return run(self.bn2, run(self.fc2, run(self.bn1, run(self.fc1, x)))).flatten(1).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return ops.acon(x, self.p1, self.p2, self.beta_of(x))

    def train(self, mode: bool = True) -> 'MetaAconC':
        """Frozen it stays in eval mode, as mmdet's frozen layers do; mmdet knows of no activation after them."""
        frozen = {parameter.requires_grad for parameter in self.parameters()} == {False}
        return super().train(mode and not frozen)


def _run(layer: nn.Module, x: Tensor) -> Tensor:
    shared = isinstance(layer, nn.SyncBatchNorm) and get_world_size() > 1
    if isinstance(layer, _BatchNorm) and layer.training and len(x) < 2 and not shared:
        return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps)
    return layer(x)


def _run_cast(layer: nn.Module, x: Tensor) -> Tensor:
    """:func:`_run` in the dtype of ``x``, to which parameters and statistics are cast; the layer's own keep theirs.

    By hand, because ``torch.func.functional_call`` refuses to be traced, so to be exported.
    """
    parameters, buffers = dict(layer._parameters), dict(layer._buffers)
    layer._parameters.update({name: _cast(parameter, x.dtype) for name, parameter in parameters.items()})
    layer._buffers.update({name: _cast(buffer, x.dtype) for name, buffer in buffers.items()})
    try:
        out = _run(layer, x)
        moved = dict(layer._buffers)
    finally:
        layer._parameters.update(parameters)
        layer._buffers.update(buffers)
    if layer.training:
        for name, buffer in buffers.items():
            if moved[name] is not buffer:
                buffer.copy_(moved[name])
    return out


def _cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return tensor.to(dtype) if tensor is not None and tensor.is_floating_point() else tensor

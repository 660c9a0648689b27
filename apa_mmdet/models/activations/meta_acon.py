import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.dist import get_world_size
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from apa_mmdet import ops
from apa_mmdet.ops.memory_layout import compute_dtype, without_autocast
from apa_mmdet.structures.valid_region import ValidRegion

from .acon import P1, P2, AconActivation
from .base import Symbol


@MODELS.register_module()
class MetaAconC(AconActivation):
    r"""Meta-ACON: ACON-C whose β a small network computes from the input, for each image and channel.

    .. math::
        S(x) &= (p_1 - p_2) x \cdot σ(β (p_1 - p_2) x) + p_2 x \\
        β &= σ(\mathrm{BN}(\mathrm{fc}_2(\mathrm{BN}(\mathrm{fc}_1(\mathrm{mean}_{H, W}(x))))))

    Source: Ma et al., *Activate or Not: Learning Customized Activation*, CVPR 2021, arXiv:2009.04759, section 3.3.
    fc₁ and fc₂ are 1x1 convolutions of C → width → C channels; p₁ and p₂ start from N(0, 1). Its parameters have the
    official names, and official weights load. Dtypes and limits as :func:`apa_mmdet.ops.acon`; β itself is computed
    in float32 at least, in float64 where the input or the convolutions' weights have it, also under autocast. An
    ``init_cfg`` of the parent module that names ``Conv2d`` or ``BatchNorm2d`` initializes these layers as well.

    A batch norm in training mode computes its statistics over the images of the batch (of all processes with SyncBN),
    as every channel has one value per image. With fewer than two images it uses the running statistics and does not
    update them. The same holds where ``norm_eval=True`` sets the backbone's batch norms to eval mode, and where no
    parameter is trained: then ``train()`` leaves this module in eval mode.

    In ``SEResNet`` the mean runs over the part of a padded batch that is image, see
    :class:`~apa_mmdet.models.data_preprocessors.PaddingAwareDetDataPreprocessor`; in other backbones over all of it.

    Args:
        num_features, inplace: as :class:`LearnableActivation`.
        reduction: width is C/reduction, but at least 16.
        norm_cfg: config of both norms, batch or group norms. None for the variant without norms, whose convolutions
            have no biases.

    Raises:
        ValueError: as :class:`LearnableActivation`, or if ``reduction`` is below 1.

    Example:
        >>> act = MetaAconC(3)
        >>> _ = nn.init.ones_(act.p1), nn.init.zeros_(act.p2), nn.init.zeros_(act.bn2.weight)      # β = σ(0) = 1/2
        >>> act(torch.full((1, 3), 2.)).tolist()      # 2·σ(1)
        [[1.4621..., 1.4621..., 1.4621...]]
    """

    learned = ('p1', 'p2')
    symbols = dict(p1=P1, p2=P2, beta=Symbol('β', (0.05, 0.25, 0.5, 0.75, 0.95), 0.5))
    note = 'β depends on the input, 0 < β < 1'

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
        # in the official order, so that mmcv's fuse_conv_bn fuses each norm with the convolution before it
        self.fc1 = nn.Conv2d(num_features, width, 1, bias=norm_cfg is not None)
        self.bn1 = nn.Identity() if norm_cfg is None else build_norm_layer(norm_cfg, width)[1]
        self.fc2 = nn.Conv2d(width, num_features, 1, bias=norm_cfg is not None)
        self.bn2 = nn.Identity() if norm_cfg is None else build_norm_layer(norm_cfg, num_features)[1]

    def beta_of(self, x: Tensor, region: ValidRegion | None = None) -> Tensor:
        """Returns β of each image and channel, (N, C); the mean runs over ``region``, where one is given."""
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise ValueError(
                f'MetaAconC of {self.num_features} channels got an input of shape {tuple(x.shape)}; '
                f'it takes (N, {self.num_features}, …)'
            )
        if region is not None:
            x = region.mean(x)
        elif x.dim() > 2:  # the mean, whose own backward would write a whole gradient
            dims = tuple(range(2, x.dim()))
            x = x.sum(dims, dtype=compute_dtype(x.dtype)) / math.prod(x.shape[2:])
        dtype = torch.promote_types(compute_dtype(x.dtype), self.fc1.weight.dtype)
        x = x.to(dtype)[..., None, None]
        with without_autocast(x):
            for layer in (self.fc1, self.bn1, self.fc2, self.bn2):
                x = _run(layer, x) if dtype == self.fc1.weight.dtype else _run_cast(layer, x)
            return x.flatten(1).sigmoid()

    def forward(self, x: Tensor, region: ValidRegion | None = None) -> Tensor:
        return ops.acon(x, self.p1, self.p2, self.beta_of(x, region))

    forward.takes_region = True

    def curves(self) -> tuple[Callable[[Tensor], Tensor], int]:
        """Returns the curves of every channel for each of :meth:`typical_betas`."""
        betas = self.typical_betas()
        p1, p2 = (p.detach().repeat(len(betas)) for p in (self.p1, self.p2))
        return partial(self.function, p1=p1, p2=p2, beta=betas.flatten()), betas.numel()

    def typical_betas(self) -> Tensor:
        """Returns values of β that occur, (values, C): those of usual inputs where the last norm is affine."""
        if self._norm_is_affine():
            mean, deviation = self.bn2.bias.detach(), self.bn2.weight.detach().abs()  # over the training data
            return torch.stack([mean - deviation, mean, mean + deviation]).sigmoid()
        values = self.p1.new_tensor(self.symbols['beta'].values)
        return values[:, None].expand(-1, self.num_features)

    def curves_note(self) -> str:
        if self._norm_is_affine():
            return "a channel's β is σ(bias + t·|weight|) of the last norm, t = −1, 0 or 1: usual inputs"
        return 'β depends on the input and has no norm: from 0.05 to 0.95'

    def _norm_is_affine(self) -> bool:
        return all(getattr(self.bn2, name, None) is not None for name in ('weight', 'bias'))

    def train(self, mode: bool = True) -> 'MetaAconC':
        """Stays in eval mode if all parameters are frozen, as mmdet's frozen layers do."""
        frozen = {parameter.requires_grad for parameter in self.parameters()} == {False}
        return super().train(mode and not frozen)


def _run(layer: nn.Module, x: Tensor) -> Tensor:
    shared = isinstance(layer, nn.SyncBatchNorm) and get_world_size() > 1
    if isinstance(layer, _BatchNorm) and layer.training and len(x) < 2 and not shared:
        return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps)
    return layer(x)


def _run_cast(layer: nn.Module, x: Tensor) -> Tensor:
    """Runs a twin of the layer whose parameters and statistics are cast to the dtype of ``x``; updates the layer's own.

    Not ``torch.func.functional_call``, which cannot be traced and so not exported, nor ``copy.copy``, which cannot be
    compiled.
    """
    twin = type(layer).__new__(type(layer))
    # also plain tensors, which replicas of DataParallel and FSDP have in the place of parameters
    twin.__dict__.update({name: _cast(value, x.dtype) for name, value in layer.__dict__.items()})
    twin._parameters = {name: _cast(parameter, x.dtype) for name, parameter in layer._parameters.items()}
    twin._buffers = {name: _cast(buffer, x.dtype) for name, buffer in layer._buffers.items()}
    out = _run(twin, x)
    if layer.training:
        for name, buffer in layer._buffers.items():
            if twin._buffers[name] is not buffer:
                buffer.copy_(twin._buffers[name])
    return out


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

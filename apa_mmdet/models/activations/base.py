"""What every learnable activation shares: how a site builds one, and how parameters are drawn.

Activations are registered in MMEngine's registry, mmdet's parent: mmdet finds them there by the same name, and so does
mmcv's ConvModule where no default scope is set.
"""

import inspect

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from apa_mmdet.ops.apa import LAMBDA_FLOOR


def build_activation(cfg: dict, num_features: int) -> nn.Module:
    """Build a fresh activation for one site.

    ``num_features`` is handed on where the recipe asks for it with ``num_features=None``, or leaves it out and the
    activation cannot do without. Any registered activation will do, learnable or not.

    Args:
        cfg: recipe, e.g. ``dict(type='AGLU')`` or ``dict(type='AGLU', num_features=None)``.
        num_features: channel count of the site.
    """
    cfg = dict(cfg)
    kind = _class_of(cfg)
    if kind is None:
        raise KeyError(f'activation {cfg["type"]!r} is not registered')
    if needs_channels(cfg):
        cfg['num_features'] = num_features
    if 'inplace' in inspect.signature(kind).parameters:
        cfg.setdefault('inplace', True)
    return MODELS.build(cfg)


def needs_channels(cfg: dict) -> bool:
    """Whether the recipe leaves ``num_features`` to the site; False for one that is not registered."""
    kind = _class_of(cfg)
    parameter = inspect.signature(kind).parameters.get('num_features') if kind else None
    return parameter is not None and cfg.get('num_features', parameter.default) in (None, inspect.Parameter.empty)


def _class_of(cfg: dict) -> type | None:
    return MODELS.get(cfg['type']) if isinstance(cfg['type'], str) else cfg['type']


def channel_count(module: nn.Module, num_features: int | None) -> int:
    """``num_features`` if it is one.

    Raises:
        ValueError: if it is None or below 1.
    """
    name = type(module).__name__
    if num_features is None:
        raise ValueError(
            f'{name}(num_features=None) stands for the channel count of the site, which is not known here: write '
            'num_features=…, the channels of this layer; SEResNet and SwapActivations find it by themselves'
        )
    if num_features < 1:
        raise ValueError(f'{name}: num_features must be at least 1, got {num_features}')
    return num_features


class APAActivation(nn.Module):
    """λ and κ of one site, drawn uniformly; ``function``, of :mod:`apa_mmdet.ops`, is the subclass's.

    Args:
        num_features: 1 for scalars, the channel count (dimension 1 of the input) for one pair per
            channel, None for the channel count of the site (see :func:`build_activation`).
        lambda_init: lowest and highest value that λ is drawn from; at least 1e-4 at the top.
        kappa_init: the same for κ; any sign.
        inplace: accepted for ConvModule, which passes it. The input is needed in the backward, so the
            computation is never in place.

    Raises:
        ValueError: if a range is reversed, λ's lies below the floor of 1e-4, or ``num_features`` < 1.
    """

    def __init__(
        self,
        num_features: int | None = 1,
        lambda_init: tuple[float, float] = (0.0, 1.0),
        kappa_init: tuple[float, float] = (1.0, 1.3),
        inplace: bool = False,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.num_features = channel_count(self, num_features)
        self.lambda_init = _range(f'{name}: lambda_init', lambda_init)
        self.kappa_init = _range(f'{name}: kappa_init', kappa_init)
        if self.lambda_init[0] < 0 or self.lambda_init[1] < LAMBDA_FLOOR:
            raise ValueError(f'{name}: lambda_init {self.lambda_init} lies below the floor of λ, {LAMBDA_FLOOR:g}')
        self.lambda_ = nn.Parameter(torch.empty(num_features))
        self.kappa = nn.Parameter(torch.empty(num_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw λ and κ anew; λ not below its floor, where it would have no gradient."""
        low, high = self.lambda_init
        nn.init.uniform_(self.lambda_, max(low, LAMBDA_FLOOR), high)
        nn.init.uniform_(self.kappa, *self.kappa_init)

    def forward(self, z: Tensor, **before) -> Tensor:
        """``before``: what the function does to ``z`` first, and ``recompute``; see :func:`apa_mmdet.ops.apa`."""
        return self.function(z, self.lambda_, self.kappa, **before)

    forward.fusible = True  # it takes scale, shift, residual, residual_scale and recompute; see layers/norm_act.py

    def extra_repr(self) -> str:
        return f'num_features={self.num_features}, lambda_init={self.lambda_init}, kappa_init={self.kappa_init}'


def _range(name: str, bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    if not low <= high:
        raise ValueError(f'{name} must be (lowest, highest), got the reversed range {tuple(bounds)}')
    return low, high

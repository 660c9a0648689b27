"""Norm, attention, residual sum and activation in one pass over memory, where that changes nothing.

A batch norm in eval mode is x·scale + shift, as is one gated by attention, with other numbers; the functions of
:mod:`apa_mmdet.ops` take those, and keep the results of the convolutions alone for backward. Everything else (batch
statistics, other norms, other attention, an activation that cannot, modules with hooks) runs as plain modules.
"""

from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from apa_mmdet.models.activations.base import APAActivation
from apa_mmdet.ops.memory_layout import compute_dtype

from .cbam import CBAM
from .se_layer import SELayer


def norm_act(x: Tensor, norm: nn.Module, act: nn.Module, recompute: bool = False) -> Tensor:
    """``act(norm(x))``; ``recompute`` as in :func:`apa_mmdet.ops.apa`, for activations that can."""
    if not fuses(act):
        return act(norm(x))
    if not folds(norm):
        return act(norm(x), recompute=recompute)
    scale, shift = fold(norm)
    return act(x, scale=scale, shift=shift, recompute=recompute)


def residual_act(
    x: Tensor,
    norm: nn.Module,
    attention: nn.Module,
    identity: Tensor,
    identity_norm: nn.Module | None,
    act: nn.Module,
    recompute: bool = False,
) -> Tensor:
    """``act(attention(norm(x)) + identity_norm(identity))``, where ``identity_norm`` may be None."""
    residual_scale, residual_shift = None, 0.0
    fused = fuses(act) and folds(norm) and gates(attention) and identity.dtype == x.dtype
    if fused and identity_norm is not None and folds(identity_norm):
        residual_scale, residual_shift = fold(identity_norm)
    elif identity_norm is not None:
        identity = identity_norm(identity)
    if not fused:
        total = attention(norm(x))
        # as in mmdet's blocks; but a hook may have kept the tensor, or backward need what other attention returns
        in_place = type(attention) in (nn.Identity, SELayer, CBAM) and unhooked(attention) and unhooked(norm)
        total = total.add_(identity) if in_place else total + identity
        return act(total, recompute=recompute) if fuses(act) else act(total)
    scale, shift = fold(norm)
    if isinstance(attention, SELayer):
        gate = attention.gates((x.mean((2, 3), dtype=compute_dtype(x.dtype)) * scale + shift).to(x.dtype))
        scale, shift = scale * gate, shift * gate
    return act(
        x,
        scale=scale,
        shift=shift + residual_shift,
        residual=identity,
        residual_scale=residual_scale,
        recompute=recompute,
    )


def fold(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift, each (C,), that a batch norm in eval mode applies; differentiable in its weight and bias."""
    dtype = compute_dtype(norm.running_var.dtype)
    scale = (norm.running_var.to(dtype) + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


def folds(norm: nn.Module) -> bool:
    return type(norm) is nn.BatchNorm2d and not norm.training and norm.running_var is not None and unhooked(norm)


def fuses(act: nn.Module) -> bool:
    return type(act).forward is APAActivation.forward and unhooked(act)


def gates(attention: nn.Module) -> bool:
    """Whether it multiplies by one number per image and channel, if anything."""
    return type(attention) in (nn.Identity, SELayer) and unhooked(attention)


def opens(layers: nn.Module) -> bool:
    """Whether the layers of a sequence may be called one by one."""
    return type(layers) is nn.Sequential and unhooked(layers)


def unhooked(module: nn.Module) -> bool:
    """Whether nobody would notice that the module, or a part of it, is not called with its usual input."""
    hooked = (
        nn_module._global_forward_hooks
        or nn_module._global_forward_pre_hooks
        or nn_module._global_backward_hooks
        or nn_module._global_backward_pre_hooks
    )
    return not hooked and not any(
        part._forward_hooks
        or part._forward_pre_hooks
        or part._backward_hooks
        or part._backward_pre_hooks
        or 'forward' in part.__dict__  # put there by somebody, around the class's own
        for part in module.modules()
    )

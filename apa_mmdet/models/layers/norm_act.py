"""Norm, attention, residual sum and activation in one pass over memory, where that does not change the result.

A batch norm in eval mode, the identity that mmcv's ``fuse_conv_bn`` leaves of one, and channel gates are one factor and
one summand a channel; the functions of :mod:`apa_mmdet.ops` take their tensors, and keep only the results of the
convolutions for backward. Everything else (batch statistics, other norms, other attention, activations that take no
scale, modules with hooks) runs as plain modules.

An activation takes part if its ``forward`` has the attribute ``fusible = True``, and so accepts the keywords ``norm``,
``gate``, ``residual``, ``residual_norm`` and ``recompute`` of :func:`apa_mmdet.ops.apa`. A subclass that overrides
``forward`` runs as a plain module unless it sets the attribute again.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from apa_mmdet.ops import Norm
from apa_mmdet.ops.memory_layout import compute_dtype
from apa_mmdet.structures.valid_region import ValidRegion, call_within

from .cbam import CBAM
from .se_layer import SELayer


def norm_act(
    x: Tensor, norm: nn.Module, act: nn.Module, recompute: bool = False, region: ValidRegion | None = None
) -> Tensor:
    """``act(norm(x))``; ``recompute`` as in :func:`apa_mmdet.ops.apa`, ignored by activations that are not fusible.

    Activations and attention that pool do so within ``region``, where one is given.
    """
    if not can_fuse_act(act):
        return call_within(act, norm(x), region)
    if not can_fold_norm(norm):
        return act(norm(x), recompute=recompute)
    return act.forward(x, norm=tensors_of(norm), recompute=recompute)  # has no hooks


def residual_act(
    x: Tensor,
    norm: nn.Module,
    attention: nn.Module,
    identity: Tensor,
    identity_norm: nn.Module | None,
    act: nn.Module,
    recompute: bool = False,
    region: ValidRegion | None = None,
) -> Tensor:
    """``act(attention(norm(x)) + identity_norm(identity))``; ``identity_norm`` may be None. See :func:`norm_act`."""
    residual_norm = None
    fused = can_fuse_act(act) and can_fold_norm(norm) and is_channel_gate(attention) and identity.dtype == x.dtype
    if fused and identity_norm is not None and can_fold_norm(identity_norm):
        residual_norm = tensors_of(identity_norm)
    elif identity_norm is not None:
        identity = identity_norm(identity)
    if not fused:
        total = call_within(attention, norm(x), region)
        # as in mmdet's blocks; but a hook may hold the tensor, and other attention may need its result in backward
        in_place = type(attention) in (nn.Identity, SELayer, CBAM) and has_no_hooks(attention) and has_no_hooks(norm)
        total = total.add_(identity) if in_place else total + identity
        return act(total, recompute=recompute) if can_fuse_act(act) else call_within(act, total, region)
    gate, folded = None, tensors_of(norm)
    if isinstance(attention, SELayer):
        gate = attention.fused_gates(x, folded) if region is None else None
        if gate is None:
            mean = x.mean((2, 3), dtype=compute_dtype(x.dtype)) if region is None else region.mean(x)
            gate = attention.gates(norm_of_mean(mean, folded).to(x.dtype))
    return act.forward(  # has no hooks
        x, norm=folded, gate=gate, residual=identity, residual_norm=residual_norm, recompute=recompute
    )


def norm_of_mean(mean: Tensor, norm: Norm | None) -> Tensor:
    """Returns the mean of ``norm(x)`` from the mean of x, (N, C), in one operator and with one for its derivative."""
    if norm is None:
        return mean
    if torch.jit.is_tracing():  # plain operators, which all programs have
        scale, shift = norm.fold(mean.dtype)
        return mean * scale + shift
    tensors = [None if each is None else each.to(mean.dtype) for each in norm[:4]]
    return F.batch_norm(mean, *tensors, eps=norm.eps)


def tensors_of(norm: nn.Module) -> Norm | None:
    """Returns a norm that :func:`can_fold_norm` accepts as the functions of :mod:`apa_mmdet.ops` take it."""
    if not isinstance(norm, nn.BatchNorm2d):
        return None  # the identity
    buffers, parameters = norm._buffers, norm._parameters  # a few times as fast as attributes of a module
    if len(parameters) < 2:  # replicas of DataParallel, and FSDP, have plain tensors in the place of parameters
        return Norm(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
    return Norm(buffers['running_mean'], buffers['running_var'], parameters['weight'], parameters['bias'], norm.eps)


def can_fold_norm(norm: nn.Module) -> bool:
    if type(norm) is nn.Identity:
        return has_no_hooks(norm)
    return type(norm) is nn.BatchNorm2d and not norm.training and norm.running_var is not None and has_no_hooks(norm)


def can_fuse_act(act: nn.Module) -> bool:
    return getattr(type(act).forward, 'fusible', False) and has_no_hooks(act)


def is_channel_gate(attention: nn.Module) -> bool:
    """Whether it multiplies by one number per image and channel, or does nothing."""
    return type(attention) in (nn.Identity, SELayer) and has_no_hooks(attention)


def is_plain_sequential(layers: nn.Module) -> bool:
    """Whether its layers may be called one by one."""
    return type(layers) is nn.Sequential and has_no_hooks(layers)


def has_no_hooks(module: nn.Module) -> bool:
    """Whether neither the module nor a part of it has a hook or a replaced forward that would miss its call."""
    if (
        nn_module._global_forward_hooks
        or nn_module._global_forward_pre_hooks
        or nn_module._global_backward_hooks
        or nn_module._global_backward_pre_hooks
    ):
        return False
    own = module.__dict__  # asked at every call: several times as fast as attributes
    if (
        own['_forward_hooks']
        or own['_forward_pre_hooks']
        or own['_backward_hooks']
        or own['_backward_pre_hooks']
        or 'forward' in own  # set on the instance, around the forward of the class
    ):
        return False
    return all(has_no_hooks(part) for part in own['_modules'].values() if part is not None)

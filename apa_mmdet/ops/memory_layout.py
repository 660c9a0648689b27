"""The arguments of the backends, and how the elements of a tensor lie in memory."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

FORMULAS = ('apa', 'aglu', 'neg_log_apa')


class Arguments(NamedTuple):
    """Arguments of one call, or the gradients to them: a formula of ``x·scale + shift + residual·residual_scale``.

    x: any shape and floating point dtype; the parameters have its compute dtype (:func:`compute_dtype`).
    lambda_, kappa: shape (), or (C,) with C = ``x.shape[1]``; λ is at least its floor.
    scale, shift, residual_scale: None, or shape (N, C) or (1, C); scale and shift both or neither.
    residual: None, or the shape of ``x``.
    """

    x: Tensor
    lambda_: Tensor
    kappa: Tensor
    scale: Tensor | None = None
    shift: Tensor | None = None
    residual: Tensor | None = None
    residual_scale: Tensor | None = None

    @property
    def per_channel(self) -> bool:
        return any(
            t is not None and t.dim() > 0
            for t in (self.lambda_, self.kappa, self.scale, self.shift, self.residual_scale)
        )

    @property
    def per_image(self) -> bool:
        return any(t is not None and len(t) != 1 for t in (self.scale, self.shift, self.residual_scale))


class Layout(NamedTuple):
    """A tensor as ``images`` x ``channels`` x ``positions``; with ``channels_last`` the channels are innermost.

    Where no parameter differs between channels, all elements are positions of a single channel.
    """

    images: int
    channels: int
    positions: int
    channels_last: bool


def check_input(x: Tensor, **others: Tensor | None) -> None:
    """Raises a TypeError unless ``x`` is floating point, a ValueError if another tensor is on another device."""
    if not x.is_floating_point():
        raise TypeError(f'the input must have a floating point dtype, got {x.dtype}')
    for name, tensor in others.items():
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f'{name} is on {tensor.device}, but the input is on {x.device}')


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def is_compiling() -> bool:
    """Whether torch.compile is tracing: it decides by itself what to fuse and what to recompute."""
    if hasattr(torch.compiler, 'is_compiling'):
        return torch.compiler.is_compiling()
    return torch._dynamo.is_compiling()  # before torch 2.3


def empty_result(x: Tensor, per_channel: bool) -> Tensor:
    """Returns a dense tensor in the memory order of ``x`` or, if kernels cannot walk that, in the one to copy it to."""
    if not per_channel:
        return torch.empty_like(x)  # with x's strides where those leave no gaps
    for dims, memory_format in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if x.dim() == dims and not x.is_contiguous() and x.is_contiguous(memory_format=memory_format):
            return torch.empty_like(x, memory_format=memory_format)
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def in_order_of(result: Tensor, tensor: Tensor) -> Tensor:
    """Returns ``tensor`` itself if it has the memory order of ``result``, else a copy that has."""
    same = all(size == 1 or a == b for size, a, b in zip(result.shape, result.stride(), tensor.stride()))
    return tensor if same else torch.empty_like(result, dtype=tensor.dtype).copy_(tensor)


def layout_of(result: Tensor, args: Arguments) -> Layout:
    """Returns the layout of a tensor from :func:`empty_result`."""
    if not args.per_channel:
        return Layout(1, 1, result.numel(), False)
    images, channels = result.shape[:2]
    positions = result[0, 0].numel() if images and channels else 0
    channels_last = positions == 1 or not result.is_contiguous()
    if channels_last and not args.per_image:
        images, positions = 1, images * positions
    return Layout(images, channels, positions, channels_last)


def against(x: Tensor, parameter: Tensor) -> Tensor:
    """Reshapes a parameter of shape (), (C,), (1, C) or (N, C) so that it broadcasts against ``x``."""
    return parameter.reshape(*parameter.shape, *[1] * (x.dim() - 2)) if parameter.dim() else parameter


def reduce_sums(sums: Mapping[str, Tensor], args: Arguments) -> dict[str, Tensor]:
    """Returns the gradients to those parameters that are given, from sums over positions, (images, channels)."""
    gradients = {}
    for name, total in sums.items():
        parameter = getattr(args, name)
        if parameter is not None:
            shape = parameter.shape if parameter.dim() == 2 else (1,) * (2 - parameter.dim()) + parameter.shape
            gradients[name] = total.sum_to_size(shape).view(parameter.shape).to(parameter.dtype)
    return gradients

"""The arguments of the backends, and how the elements of a tensor lie in memory."""

from typing import NamedTuple

import torch
from torch import Tensor

FORMULAS = ('apa', 'aglu', 'neg_log_apa')
LAMBDA_FLOOR = 1e-4  # APA is the Gumbel link to four digits there; below, 1/λ costs the other digits


class Norm(NamedTuple):
    """A norm with fixed statistics, as a batch norm in eval mode: ``(x − mean)/√(var + eps)·weight + bias``.

    mean, var: (C,), both or neither; without them the norm is ``x·weight + bias``. They have no gradient.
    weight, bias: (C,), or None for 1 and 0.
    """

    mean: Tensor | None = None
    var: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 1e-5

    def fold(self, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        """Returns scale and shift, (1, C) each in ``dtype`` and differentiable; None for 1 and 0."""
        scale = shift = None
        if self.var is not None:
            scale = (self.var.to(dtype) + self.eps).rsqrt()
        if self.weight is not None:
            scale = self.weight.to(dtype) if scale is None else scale * self.weight
        if self.mean is not None and scale is not None:
            shift = -self.mean * scale
        if self.bias is not None:
            shift = self.bias.to(dtype) if shift is None else shift + self.bias
        return scale if scale is None else scale[None], shift if shift is None else shift[None]


NO_NORM = Norm(eps=0.0)


class Arguments(NamedTuple):
    """Arguments of one call, or the gradients to them: a formula of ``norm(x)·gate + residual_norm(residual)``.

    x: any shape and floating point dtype; the others may have any, too.
    lambda_, kappa: one value, or (C,) with C = ``x.shape[1]``. The formulas take at least the floor of λ.
    mean, var, weight, bias: those of :class:`Norm`, whose eps is the last but one.
    gate: None, or (N, C).
    residual: None, or the shape of ``x``; ``residual_mean`` and so on are its own :class:`Norm`.
    """

    x: Tensor
    lambda_: Tensor
    kappa: Tensor
    mean: Tensor | None = None
    var: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    gate: Tensor | None = None
    residual: Tensor | None = None
    residual_mean: Tensor | None = None
    residual_var: Tensor | None = None
    residual_weight: Tensor | None = None
    residual_bias: Tensor | None = None
    eps: float = 0.0
    residual_eps: float = 0.0

    @property
    def affine(self) -> bool:
        """Whether x is scaled or shifted."""
        return not (self.var is None and self.weight is None and self.bias is None and self.gate is None)

    @property
    def residual_affine(self) -> bool:
        return not (self.residual_var is None and self.residual_weight is None and self.residual_bias is None)

    @property
    def per_channel(self) -> bool:
        return self.curve_per_channel or self.affine or self.residual_affine

    @property
    def curve_per_channel(self) -> bool:
        """Whether λ or κ is one value per channel; of no channels, too."""
        return self.lambda_.numel() != 1 or self.kappa.numel() != 1

    @property
    def norm(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        return self.mean, self.var, self.weight, self.bias

    @property
    def residual_norm(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        return self.residual_mean, self.residual_var, self.residual_weight, self.residual_bias

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        return self[:-2]


_NAMES = Arguments._fields[:-2]
_OTHER_SHAPES, _CURVE = ('x', 'residual', 'gate'), ('lambda_', 'kappa')
DIFFERENTIABLE = 'x', 'lambda_', 'kappa', 'weight', 'bias', 'gate', 'residual', 'residual_weight', 'residual_bias'


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


def check(args: Arguments) -> Arguments:
    """Returns the arguments.

    Raises:
        TypeError: unless x is floating point.
        ValueError: if the shape of an argument does not fit, or it is on another device.
    """
    check_input(args.x)
    shape, device = args.x.shape, args.x.device
    channels = (shape[1],) if len(shape) > 1 else (1,)
    for name, tensor in zip(_NAMES, args.tensors):
        if tensor is None:
            continue
        if tensor.device != device:
            raise ValueError(f'{name} is on {tensor.device}, but the input is on {device}')
        if name in _OTHER_SHAPES or (name in _CURVE and tensor.numel() == 1):
            continue
        if tensor.shape != channels or (len(shape) < 2 and name not in _CURVE):
            what = 'one value, or one per channel' if name in _CURVE else 'one value per channel'
            raise ValueError(
                f'{name} has shape {tuple(tensor.shape)}, but an input of shape {tuple(shape)} has {channels[0]} '
                f'channels: give {what} (dimension 1), (C,)'
            )
    if args.gate is not None and args.gate.shape != shape[:2]:
        raise ValueError(
            f'gate has shape {tuple(args.gate.shape)}; an input of shape {tuple(shape)} takes one value per image and '
            'channel, (N, C)'
        )
    if args.residual is None and args.residual_affine:
        raise ValueError('residual_norm is given without a residual')
    if args.residual is not None and args.residual.shape != shape:
        raise ValueError(f'residual has shape {tuple(args.residual.shape)}, but the input has {tuple(shape)}')
    if (args.mean is None) != (args.var is None) or (args.residual_mean is None) != (args.residual_var is None):
        raise ValueError('mean and var of a norm go together: give both or neither')
    return args


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def without_autocast(x: Tensor) -> torch.autocast:
    """Returns a context in which operators on the device of ``x`` keep their dtypes; meta tensors have no autocast."""
    return torch.autocast('cpu' if x.device.type == 'meta' else x.device.type, enabled=False)


def is_compiling() -> bool:
    """Whether torch.compile is tracing: it decides by itself what to fuse and what to recompute."""
    if hasattr(torch.compiler, 'is_compiling'):
        return torch.compiler.is_compiling()
    return torch._dynamo.is_compiling()  # before torch 2.3


def result_of(computed: Tensor) -> Tensor:
    """Returns the result of a ``Function``'s forward that was computed in place, for torch.compile a copy of it.

    PyTorch 2.11 compiles wrong gradients, without a word, where a result was changed in place in the forward
    (pytorch/pytorch#180642). The compiler fuses the copy away.
    """
    return computed.clone() if is_compiling() else computed


def empty_result(x: Tensor, per_channel: bool) -> Tensor:
    """Returns a dense tensor in the memory order of ``x`` or, if kernels cannot walk that, in the one to copy it to."""
    if not per_channel or x.is_contiguous():
        return torch.empty_like(x)  # with x's strides where those leave no gaps
    for dims, memory_format in ((4, torch.channels_last), (5, torch.channels_last_3d)):
        if x.dim() == dims and not x.is_contiguous() and x.is_contiguous(memory_format=memory_format):
            return torch.empty_like(x, memory_format=memory_format)
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def in_order_of(result: Tensor, tensor: Tensor) -> Tensor:
    """Returns ``tensor`` itself if it has the memory order of ``result``, else a copy that has."""
    if tensor.is_neg():  # a kernel would read the numbers before their sign is changed
        tensor = tensor.resolve_neg()
    if tensor.stride() == result.stride():
        return tensor
    same = all(size == 1 or a == b for size, a, b in zip(result.shape, result.stride(), tensor.stride()))
    return tensor if same else torch.empty_like(result, dtype=tensor.dtype).copy_(tensor)


def layout_of(result: Tensor, args: Arguments) -> Layout:
    """Returns the layout of a tensor from :func:`empty_result`."""
    if not args.per_channel:
        return Layout(1, 1, result.numel(), False)
    shape = result.shape
    images, channels = shape[0], shape[1]
    positions = result.numel() // (images * channels) if images and channels else 0
    channels_last = positions == 1 or not result.is_contiguous()
    if channels_last and args.gate is None:
        images, positions = 1, images * positions
    return Layout(images, channels, positions, channels_last)


def against(x: Tensor, parameter: Tensor) -> Tensor:
    """Reshapes a parameter of shape (), (C,), (1, C) or (N, C) so that it broadcasts against ``x``."""
    return parameter.reshape(*parameter.shape, *[1] * (x.dim() - 2)) if parameter.dim() else parameter

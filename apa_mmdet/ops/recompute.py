"""Recomputes the result of an activation in the backward pass, instead of keeping it.

A convolution keeps its input for backward. Where that is the result of an activation, the activation's own
arguments are kept as well: the same numbers twice. A :class:`Recomputation`, attached to the result, computes it again
from them; :func:`call_with_recomputation` calls a module that then keeps the recomputation. A residual that has a
recomputation is kept as one too, so of a residual network only the results of convolutions remain.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

ATTRIBUTE = '_apa_recomputation'  # of the tensor that can be computed again


class Recomputation:
    """Computes the ``result`` of a function again from its arguments, once; it lives as long as this does."""

    def __init__(self, result: Tensor, function: Callable[..., Tensor], *args: Any) -> None:
        self.function = function
        self.args = [recomputation_of(arg) or arg.detach() if isinstance(arg, Tensor) else arg for arg in args]
        self.version = result._version
        self.result: Tensor | None = None

    def __call__(self) -> Tensor:
        if self.result is None:
            with torch.no_grad():
                args = [arg() if isinstance(arg, Recomputation) else arg for arg in self.args]
                self.result = self.function(*args)
            self.args = []
        return self.result

    def __reduce__(self):
        return type(None), ()  # a tensor that is written to a file leaves its recomputation behind


def recomputation_of(tensor: Tensor | None) -> Recomputation | None:
    """Returns what :func:`attach_recomputation` attached; None if the tensor was changed in place since."""
    recomputation = None if tensor is None else getattr(tensor, ATTRIBUTE, None)
    if tensor is None or recomputation is None or recomputation.version != tensor._version:
        return None
    return recomputation


def attach_recomputation(result: Tensor, function: Callable[..., Tensor], *args: Any) -> Tensor:
    """Returns ``result``, which is ``function(*args)``, with a recomputation if it takes part in a backward."""
    if result.requires_grad:
        setattr(result, ATTRIBUTE, Recomputation(result, function, *args))
    return result


def call_with_recomputation(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Returns ``module(x)``; where the module keeps ``x`` for backward, keeps its recomputation instead.

    Raises:
        RuntimeError: in the backward pass, if another tensor that the module kept was changed in place.
    """
    recomputation = recomputation_of(x)
    if recomputation is None:
        return module(x)
    replaced = _identity(x)  # the functions below live as long as the graph, and x shall not

    def pack(tensor: Tensor):
        return recomputation if _identity(tensor) == replaced else (tensor.detach(), tensor._version)

    def unpack(kept) -> Tensor:
        if isinstance(kept, Recomputation):
            return kept()
        tensor, version = kept
        if tensor._version != version:
            raise RuntimeError(
                'one of the variables needed for gradient computation has been modified by an inplace '
                f'operation: a tensor of shape {tuple(tensor.shape)} that {type(module).__name__} kept'
            )
        return tensor

    with saved_tensors_hooks(pack, unpack):
        return module(x)


def _identity(tensor: Tensor) -> tuple:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor._version

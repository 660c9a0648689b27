"""Keep what an activation was computed from, instead of its result.

A convolution keeps its input for backward. Where that is the result of an activation, the activation's own
arguments are kept as well: the same numbers twice. A recipe, attached to the result, computes it again from them;
:func:`keep_recipe` calls a module that then keeps the recipe. A residual that has a recipe is kept as one too, so
of a residual network only the results of convolutions remain.
"""
from typing import Callable, Optional

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


class Recipe:
    """Computes ``function(*args)`` again, once; the result lives as long as somebody still needs the recipe."""

    def __init__(self, function: Callable[..., Tensor], *args) -> None:
        self.function = function
        self.args = [recipe_of(arg) or (arg.detach() if isinstance(arg, Tensor) else arg) for arg in args]
        self.result: Optional[Tensor] = None

    def __call__(self) -> Tensor:
        if self.result is None:
            with torch.no_grad():
                self.result = self.function(*(arg() if isinstance(arg, Recipe) else arg for arg in self.args))
            self.args = None
        return self.result


def recipe_of(tensor) -> Optional[Recipe]:
    return getattr(tensor, '_apa_recipe', None)


def attach_recipe(result: Tensor, function: Callable[..., Tensor], *args) -> Tensor:
    """``result``, which is ``function(*args)``, with a recipe if it takes part in a backward."""
    if result.requires_grad:
        result._apa_recipe = Recipe(function, *args)
    return result


def keep_recipe(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``module(x)``; for backward, x's recipe is kept in its stead."""
    recipe = recipe_of(x)
    if recipe is None:
        return module(x)

    start, shape = x.data_ptr(), x.shape  # the functions below live as long as the graph, and x shall not

    def pack(tensor: Tensor):
        return recipe if tensor.data_ptr() == start and tensor.shape == shape else tensor

    def unpack(kept) -> Tensor:
        return kept() if isinstance(kept, Recipe) else kept

    with saved_tensors_hooks(pack, unpack):
        return module(x)

"""Keep what an activation was computed from, instead of its result.

A convolution keeps its input for backward. Where that is the result of an activation, the activation's own
arguments are kept as well: the same numbers twice. A recipe, attached to the result, computes it again from them;
:func:`keep_recipe` calls a module that then keeps the recipe. A residual that has a recipe is kept as one too, so
of a residual network only the results of convolutions remain.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


class Recipe:
    """Computes the operator's ``result`` again from its arguments, once; lives as long as somebody needs the recipe."""

    def __init__(self, result: Tensor, formula: str, *args: Tensor | None) -> None:
        self.formula = formula
        self.args = [recipe_of(arg) or (arg if arg is None else arg.detach()) for arg in args]
        self.version = result._version
        self.result: Tensor | None = None

    def __call__(self) -> Tensor:
        if self.result is None:
            with torch.no_grad():
                args = [arg() if isinstance(arg, Recipe) else arg for arg in self.args]
                self.result = torch.ops.apa_mmdet.parametric(self.formula, *args)
            self.args = None
        return self.result

    def __reduce__(self):
        return type(None), ()  # a tensor that is written to a file leaves its recipe behind


def recipe_of(tensor: Tensor | None) -> Recipe | None:
    """None as well where the tensor has been changed in place since."""
    recipe = getattr(tensor, '_apa_recipe', None)
    return recipe if recipe is not None and recipe.version == tensor._version else None


def attach_recipe(result: Tensor, formula: str, *args: Tensor | None) -> Tensor:
    """``result``, the operator's from these arguments, with a recipe if it takes part in a backward."""
    if result.requires_grad:
        result._apa_recipe = Recipe(result, formula, *args)
    return result


def keep_recipe(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``module(x)``; for backward, x's recipe is kept in its stead."""
    recipe = recipe_of(x)
    if recipe is None:
        return module(x)
    kept_as_recipe = _identity(x)  # the functions below live as long as the graph, and x shall not

    def pack(tensor: Tensor):
        return recipe if _identity(tensor) == kept_as_recipe else (tensor.detach(), tensor._version)

    def unpack(kept) -> Tensor:
        if isinstance(kept, Recipe):
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

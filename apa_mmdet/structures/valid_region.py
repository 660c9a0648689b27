"""The part of each image of a padded batch that the image would have alone.

Images of unequal size are padded to one size. Where padding takes part in a convolution, a mean or a maximum, the
result for an image depends on the others in its batch. Data preprocessors mark the batch
(:func:`mark_valid_region`); backbones read the mark (:func:`valid_region_of`), clear what lies outside before a
convolution, as its own padding is 0, and pool within.

Letters: N images, C channels, H x W pixels, s the stride of a map.
"""

from collections.abc import Sequence
from itertools import accumulate
from operator import mul

import torch
from torch import Tensor, nn

from apa_mmdet.ops.memory_layout import compute_dtype, is_compiling, without_autocast
from apa_mmdet.ops.recompute import attach_recomputation, recomputation_of

ATTRIBUTE = '_apa_valid_pixels'  # of a batch of images; a tensor, so that torch.compile makes an input of it


class ValidRegion:
    """Treats maps of a backbone as if each image of a padded batch were alone.

    Where an image alone has h x w pixels, its map of stride s has ⌈h/s⌉ x ⌈w/s⌉ positions.

    Args:
        pixels: whether a pixel belongs to its image, (N, 1, H, W).
        strides: of the layers one after another, from the images on.
        dtype: of the sums; the compute dtype of the maps.

    Example:
        >>> pixels = torch.tensor([[[[True, True, False, False]]], [[[True, True, True, True]]]])
        >>> region, x = ValidRegion(pixels, strides=[2]), torch.tensor([[[[3., 9.]]], [[[3., 9.]]]])
        >>> region.mean(x).tolist()      # of maps of 1 x 2 positions
        [[3.0], [6.0]]
        >>> region.clear_outside(x)[0]
        tensor([[[3., 0.]]])
    """

    def __init__(self, pixels: Tensor, strides: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
        self.inside: list[Tensor] = []  # at each stride
        self.weights: list[Tensor] = []  # of the mean: 1/(number of positions) inside, else 0
        for stride in dict.fromkeys(accumulate(strides, mul, initial=1)):
            inside = pixels[..., ::stride, ::stride].contiguous()  # position i begins at pixel s·i
            self.inside.append(inside)
            self.weights.append(inside.to(dtype) / inside.sum((2, 3), keepdim=True))
        self.zero = pixels.new_zeros((), dtype=dtype)

    def clear_outside(self, x: Tensor) -> Tensor:
        """Returns maps (N, C, h, w) with 0 outside the images, whatever was there.

        With a recomputation if ``x`` has one.
        """
        inside = self.inside[self._level(x)]
        result = torch.where(inside, x, self.zero)  # masked_fill loses channels_last, and a number costs an operator
        if not is_compiling() and recomputation_of(x):
            return attach_recomputation(result, torch.where, inside, x, self.zero)
        return result

    def mean(self, x: Tensor) -> Tensor:
        """Returns the mean of each map (N, C, h, w) over its image, (N, C), in the compute dtype.

        It is a product with weights, 0 outside: a map that is infinite or NaN there has the mean NaN.
        """
        weights = self.weights[self._level(x)]
        if x.dtype != weights.dtype:  # half precisions, whose matrix products are rounded to them
            return (x * weights).sum((2, 3))
        with without_autocast(x):
            return torch.bmm(x.flatten(2), weights.flatten(2).transpose(1, 2)).squeeze(2)  # writes no map

    def max(self, x: Tensor) -> Tensor:
        """Returns the maximum of each map (N, C, h, w) over its image, (N, C)."""
        return x.masked_fill(~self.inside[self._level(x)], -torch.inf).flatten(2).max(2).values

    def _level(self, x: Tensor) -> int:
        """Index of the stride that leads to maps of this size."""
        for i, inside in enumerate(self.inside):
            if inside.shape[2:] == x.shape[2:]:
                return i
        sizes = ', '.join('x'.join(map(str, inside.shape[2:])) for inside in self.inside)
        got = 'x'.join(map(str, x.shape[2:]))
        raise ValueError(f'a padded batch of {sizes.split(", ")[0]} pixels has maps of {sizes}; a layer got {got}')


def mark_valid_region(batch: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """Marks which pixels of a padded batch belong to each image; nothing where all images fill the batch.

    The mark belongs to this tensor: a copy, also one in another dtype, has none.

    Args:
        batch: (N, C, H, W).
        shapes: height and width that each image would have alone.

    Returns:
        The batch itself.
    """
    if any(tuple(shape) != tuple(batch.shape[2:]) for shape in shapes):
        pixels = batch.new_zeros(len(batch), 1, *batch.shape[2:], dtype=torch.bool)
        for image, (height, width) in zip(pixels, shapes):
            image[:, :height, :width] = True
        setattr(batch, ATTRIBUTE, pixels)
    return batch


def valid_region_of(batch: Tensor, strides: Sequence[int]) -> ValidRegion | None:
    """Returns the region that is marked in a batch, for layers of these strides; None where none is.

    A trace has none either: it would keep the sizes of its example.
    """
    pixels = getattr(batch, ATTRIBUTE, None)
    if pixels is None or torch.jit.is_tracing():
        return None
    return ValidRegion(pixels, strides, compute_dtype(batch.dtype))


def clear_outside(x: Tensor, region: ValidRegion | None) -> Tensor:
    """Returns ``x``, and where there is a region with 0 outside of it: the input of a convolution."""
    return x if region is None else region.clear_outside(x)


def call_within(module: nn.Module, x: Tensor, region: ValidRegion | None) -> Tensor:
    """Returns ``module(x)``, or ``module(x, region)`` where there is a region and the module's ``forward`` takes one.

    It does if it has the attribute ``takes_region = True``.
    """
    takes_region = getattr(type(module).forward, 'takes_region', False)
    return module(x, region) if region is not None and takes_region else module(x)

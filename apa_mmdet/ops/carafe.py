"""CARAFE upsampling in plain PyTorch.

Letters: N maps, C channels in G groups, H x W pixels, s scale factor, k kernel size.

The operator is a sum over k² shifted copies of the features, each weighted by one channel of the masks. It is computed
as one small matrix product for each row of a map: the k input rows around it, flattened to (C, k·(W + k − 1)), a view
of the padded map, times a banded matrix (k·(W + k − 1), s·W·s) that holds the masks, give the s output rows. Maps are
stacked below one another, so that one batched product serves many. The band wastes (W + k − 1)/k of the arithmetic and
is still the fastest. Forward + backward, the better of two runs, of 256 x 256 x 14 x 14, k = 5, s = 2 on one core of a
shared 2-core Xeon (PyTorch 2.13 CPU, float32); of the peak memory, 0.45 GiB are the results and their gradients:

    this                                0.8 s      0.7 GiB
    unfold + matmul, 4 maps at a time   5.3 s      0.6 GiB
    unfold + matmul, all at once        6.6 s      3.0 GiB
    loop over the 25 shifts              26 s      1.1 GiB
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .memory_layout import result_of

# rows of a stack: a step may wait 10 ms for a thread on a shared core, in all 3 s with 256 rows, 35 s with 16
STACK_ROWS = 256
# columns of a product, which bound the zeros in the band: two 100 x 152 maps take 0.7 s, with 64 columns 1.1 s
TILE_COLUMNS = 16


def carafe(features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int) -> Tensor:
    """Content-aware reassembly of features.

        out[n, c, y, x] = Σ_ij masks[n, (g·k + i)·k + j, y, x] · features[n, c, ⌊y/s⌋ + i − k//2, ⌊x/s⌋ + j − k//2]

    with g = ⌊c·G/C⌋ and zeros beyond the border. Any device and dtype; first derivatives only; backward keeps the two
    inputs and nothing else. A NaN or Inf among the features spreads along its rows.

    Source: Wang et al., *CARAFE: Content-Aware ReAssembly of FEatures*, ICCV 2019, arXiv:1905.02188, equation 4.

    Args:
        features: (N, C, H, W).
        masks: (N, G·k², s·H, s·W), of the dtype of ``features``.
        kernel_size: k, odd.
        group_size: G, the number of groups; divides C.
        scale_factor: s.

    Returns:
        (N, C, s·H, s·W).

    Raises:
        ValueError: if the shapes do not match, or ``kernel_size`` is even.

    Example:
        >>> carafe(torch.ones(1, 1, 1, 2), torch.ones(1, 9, 1, 2), 3, 1, 1)      # two of the nine lie inside
        tensor([[[[2., 2.]]]])
    """
    n, channels, height, width = features.shape
    expected = (n, group_size * kernel_size**2, height * scale_factor, width * scale_factor)
    if kernel_size % 2 == 0 or channels % group_size or masks.shape != expected:
        raise ValueError(
            f'carafe of features {tuple(features.shape)} with kernel_size={kernel_size} (odd), '
            f'group_size={group_size} (a divisor of the channels) and scale_factor={scale_factor} needs '
            f'masks {expected}, got {tuple(masks.shape)}'
        )
    if torch.jit.is_tracing():  # other programs cannot run a Function
        return carafe_by_shifts(features, masks, kernel_size, group_size, scale_factor)
    grouped = features.reshape(n * group_size, channels // group_size, height, width)
    masks = masks.reshape(n * group_size, kernel_size, kernel_size, height, scale_factor, width, scale_factor)
    out = _Reassemble.apply(grouped, masks)
    return out.reshape(n, channels, height * scale_factor, width * scale_factor)


def carafe_by_shifts(features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int) -> Tensor:
    """CARAFE as a sum over the k² shifts, in plain operators, which TorchScript and ONNX have.

    Arguments and result are those of :func:`carafe`, which is faster.
    """
    n, channels, height, width = features.shape
    k, s = kernel_size, scale_factor
    # positions innermost, so that each product runs over whole maps; the s² pixels within one come last
    padded = F.pad(features.reshape(n * group_size, 1, channels // group_size, height, width), [k // 2] * 4)
    weights = masks.reshape(n * group_size, k * k, height, s, width, s).permute(1, 0, 3, 5, 2, 4)
    weights = weights.reshape(k * k, n * group_size, s * s, 1, height, width)
    shifts = (padded[..., i : i + height, j : j + width] for i in range(k) for j in range(k))
    total = sum(shift * weight for shift, weight in zip(shifts, weights))
    total = total.reshape(n * group_size, s, s, channels // group_size, height, width).permute(0, 3, 4, 1, 5, 2)
    return total.reshape(n, channels, height * s, width * s)


class _Reassemble(Function):
    """features (M, C, H, W), masks (M, k, k, H, s, W, s) → (M, C, H, s, W, s)."""

    @staticmethod
    def forward(ctx, features: Tensor, masks: Tensor) -> Tensor:
        ctx.save_for_backward(features, masks)
        m, channels, height, width = features.shape
        k, s = masks.shape[1], masks.shape[4]
        out = features.new_empty(m, channels, height, s, width, s)
        for feature, mask, result in _stacks(k, features, masks, out):
            stacked = _stack(feature, k)
            for tile in _tiles(width):
                band, _ = _band(mask[..., tile, :])
                part = torch.bmm(_windows(stacked, tile, k), band)
                part = part.view(len(feature), -1, channels, s, tile.stop - tile.start, s)[:, :height]
                result[..., tile, :].copy_(part.transpose(1, 2))
        return result_of(out)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        features, masks = ctx.saved_tensors
        to_features = torch.empty_like(features, memory_format=torch.contiguous_format)
        to_masks = torch.empty_like(masks, memory_format=torch.contiguous_format)
        for parts in _stacks(masks.shape[1], features, masks, grad, to_features, to_masks):
            _backward_of_stack(*parts)
        return to_features, to_masks


def _backward_of_stack(feature: Tensor, mask: Tensor, grad: Tensor, to_feature: Tensor, to_mask: Tensor) -> None:
    """Writes the gradients of one stack into ``to_feature`` and ``to_mask``."""
    m, channels, height, width = feature.shape
    k = mask.shape[1]
    stacked = _stack(feature, k)
    to_stacked = torch.zeros_like(stacked)
    rows = m * (height + k // 2)
    for tile in _tiles(width):
        columns = grad.new_zeros(m, height + k // 2, channels, *grad[..., tile, :].shape[3:])
        columns[:, :height].copy_(grad[..., tile, :].transpose(1, 2))
        columns = columns.view(rows, channels, -1)
        to_band, to_diagonal = _empty_band(mask[..., tile, :])
        torch.bmm(_windows(stacked, tile, k).transpose(1, 2), columns, out=to_band)
        to_mask[..., tile, :].copy_(to_diagonal)
        band, _ = _band(mask[..., tile, :])
        to_windows = torch.bmm(columns, band.transpose(1, 2)).view(rows, channels, k, -1).transpose(0, 1)
        for i in range(k):
            to_stacked[:, i : i + rows, tile.start : tile.stop + k - 1].add_(to_windows[:, :, i])
    to_feature.copy_(_maps_in(to_stacked, feature, k))


def _stacks(k: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Splits the maps into stacks of up to ``STACK_ROWS`` rows, of at least one map; none for an empty batch."""
    if len(tensors[0]) == 0:
        return iter(())
    return zip(*(t.split(max(1, STACK_ROWS // (tensors[0].shape[2] + k // 2))) for t in tensors))


def _tiles(width: int) -> Iterator[slice]:
    return (slice(start, min(start + TILE_COLUMNS, width)) for start in range(0, width, TILE_COLUMNS))


def _stack(maps: Tensor, k: int) -> Tensor:
    """Stacks maps (m, C, H, W) with k//2 zeros around and between: (C, m·(H + k//2) + k − 1, W + k − 1)."""
    m, channels, height, width = maps.shape
    stacked = maps.new_zeros(channels, m * (height + k // 2) + k - 1, width + k - 1)
    _maps_in(stacked, maps, k).copy_(maps)
    return stacked


def _maps_in(stacked: Tensor, maps: Tensor, k: int) -> Tensor:
    """The maps (m, C, H, W) as a view of their stack."""
    m, channels, height, width = maps.shape
    r = k // 2
    inner = stacked[:, r : r + m * (height + r), r : r + width].unflatten(1, (m, height + r))
    return inner[:, :, :height].transpose(0, 1)


def _windows(stacked: Tensor, tile: slice, k: int) -> Tensor:
    """The k rows around each row of the stack, as overlapping views: (m·(H + k//2), C, k·(columns + k − 1))."""
    part = stacked[:, :, tile.start : tile.stop + k - 1].contiguous()
    channels, rows, columns = part.shape
    return part.as_strided((rows - k + 1, channels, k * columns), (columns, rows * columns, 1))


def _empty_band(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Zero matrices (m·(H + k//2), k·(W + k − 1), s·W·s), one for each row of a stack, and the view of their bands.

    Row (i, x) and column (a, w, b) of a matrix meet in its band where x = w + j, j < k. The view has the shape of
    ``mask``, (m, k, k, H, s, W, s): the matrices of the rows between two maps remain zero.
    """
    m, k, _, height, s, width, _ = mask.shape
    band = mask.new_zeros(m, height + k // 2, k, width + k - 1, s, width, s)
    n, row, i, x, a, w, b = band.stride()
    diagonal = band.as_strided(mask.shape, (n, i, x, row, a, w + x, b))
    return band.view(-1, k * (width + k - 1), s * width * s), diagonal


def _band(mask: Tensor) -> tuple[Tensor, Tensor]:
    band, diagonal = _empty_band(mask)
    diagonal.copy_(mask)
    return band, diagonal

"""Operators of a detector that ONNX has, but torch's export of mmcv's does not find; in PyTorch they compute the same.

mmcv 2.1 records RoIAlign for opsets before 16, half a pixel off from then on; NMS not at all; and CARAFE as an operator
of its own, which onnxruntime does not know. Equal scores are ranked by index, as ONNX demands of TopK.
"""

from typing import Any

import torch
import torch.nn.functional as F
from mmcv.ops import nms, roi_align
from mmcv.ops.carafe import CARAFEPack
from torch import Tensor
from torch.autograd import Function


def rank(scores: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """The highest ``limit`` of the scores (n,), or all if there are fewer, and their indices; highest first.

    Example:
        >>> rank(torch.tensor([1., 3., 1.]), 2)
        (tensor([3., 1.]), tensor([1, 0]))
    """
    return _Rank.apply(scores, limit)


def suppress(boxes: Tensor, scores: Tensor, limit: int, iou_threshold: float, score_threshold: float) -> Tensor:
    """Non-maximum suppression, for each group of boxes and each class by itself.

    Args:
        boxes: (B, n, 4) in B groups, x1, y1, x2, y2.
        scores: (B, C, n); what is not above ``score_threshold`` is left out.
        limit: how many boxes of a group and class are kept at most.

    Returns:
        (k, 3), the group, class and index of each box that is kept; within a group and class, highest score first.

    Example:
        >>> boxes = torch.tensor([[[0., 0., 4., 4.], [0., 0., 4., 5.], [9., 9., 12., 12.]]])
        >>> suppress(boxes, torch.tensor([[[.5, .6, .1]]]), 10, 0.5, 0.05)
        tensor([[0, 0, 1],
                [0, 0, 2]])
    """
    return _Suppress.apply(boxes, scores, limit, iou_threshold, score_threshold)


def align(feature: Tensor, rois: Tensor, size: tuple[int, int], scale: float, samples: int) -> Tensor:
    """RoIAlign with pixels' centres at halves (mmcv's ``aligned=True``) of the map of one image.

    Args:
        feature: (1, C, H, W).
        rois: (R, 4), x1, y1, x2, y2 in pixels of the image.
        size: height and width of the results.
        scale: of the map against the image.
        samples: points a bin in each direction; 0 for as many as the bin has pixels.

    Returns:
        (R, C, *size).
    """
    images = torch.zeros_like(rois[:, 0], dtype=torch.int64)
    return _Align.apply(feature, rois, images, (int(feature.shape[1]), *size), scale, samples)


def reassemble(features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int) -> Tensor:
    """CARAFE in ONNX's own operators: :func:`apa_mmdet.models.layers.carafe` as a sum over the k² shifts.

    Slower, and right in either framework; arguments and result are the same.
    """
    n, channels, height, width = features.shape
    k, s = kernel_size, scale_factor
    # positions innermost, so that each product runs over whole maps; the s² pixels within one come last
    padded = F.pad(features.reshape(n * group_size, 1, channels // group_size, height, width), [k // 2] * 4)
    weights = masks.reshape(n * group_size, k * k, height, s, width, s).permute(1, 0, 3, 5, 2, 4)
    weights = weights.reshape(k * k, n * group_size, s * s, 1, height, width)
    total = 0
    for i in range(k):
        for j in range(k):
            total = total + padded[..., i : i + height, j : j + width] * weights[i * k + j]
    total = total.reshape(n * group_size, s, s, channels // group_size, height, width).permute(0, 3, 4, 1, 5, 2)
    return total.reshape(n, channels, height * s, width * s)


def record_carafe(model: torch.nn.Module) -> None:
    """Let every CARAFE layer of the model compute with :func:`reassemble`."""
    for module in model.modules():
        if isinstance(module, CARAFEPack):
            module.feature_reassemble = _Reassembling(module)


class _Reassembling:
    def __init__(self, layer: CARAFEPack) -> None:
        self.sizes = layer.up_kernel, layer.up_group, layer.scale_factor

    def __call__(self, x: Tensor, mask: Tensor) -> Tensor:
        return reassemble(x, mask, *self.sizes)


class _Rank(Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, limit: int) -> tuple[Tensor, Tensor]:
        values, indices = scores.sort(descending=True, stable=True)
        return values[:limit], indices[:limit]

    @staticmethod
    def symbolic(g: Any, scores: Any, limit: int) -> tuple[Any, Any]:
        count = g.op('Min', g.op('Shape', scores), _constant(g, [limit], torch.int64))
        values, indices = g.op('TopK', scores, count, axis_i=0, outputs=2)
        return _typed(values, scores, torch.float32, [None]), _typed(indices, scores, torch.int64, [None])


class _Suppress(Function):
    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, limit: int, iou: float, threshold: float) -> Tensor:
        if torch.onnx.is_in_onnx_export():  # any row will do; the tracer would record each of these steps, to no end
            return torch.zeros(1, 3, dtype=torch.int64)
        rows = [torch.zeros(0, 3, dtype=torch.int64)]
        for group, label in (scores > threshold).any(2).nonzero().tolist():
            index = (scores[group, label] > threshold).nonzero().squeeze(1)
            _, order = scores[group, label, index].sort(descending=True, stable=True)
            index = index[order]
            places = torch.arange(len(index), 0, -1).float()  # instead of scores, of which mmcv exchanges equal ones
            kept = index[nms(boxes[group, index], places, iou)[1][:limit]]
            rows.append(torch.stack([torch.full_like(kept, group), torch.full_like(kept, label), kept], 1))
        return torch.cat(rows)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, limit: int, iou: float, threshold: float) -> Any:
        most = _constant(g, [limit], torch.int64)
        limits = (_constant(g, [value], torch.float32) for value in (iou, threshold))
        return _typed(g.op('NonMaxSuppression', boxes, scores, most, *limits), boxes, torch.int64, [None, 3])


class _Align(Function):
    @staticmethod
    def forward(
        ctx: Any, feature: Tensor, rois: Tensor, images: Tensor, shape: tuple, scale: float, samples: int
    ) -> Tensor:
        with_image = torch.cat([images[:, None].to(rois), rois], 1)
        return roi_align(feature, with_image, shape[1:], scale, samples, 'avg', True)

    @staticmethod
    def symbolic(g: Any, feature: Any, rois: Any, images: Any, shape: tuple, scale: float, samples: int) -> Any:
        found = g.op(
            'RoiAlign',
            feature,
            rois,
            images,
            coordinate_transformation_mode_s='half_pixel',
            mode_s='avg',
            output_height_i=shape[1],
            output_width_i=shape[2],
            sampling_ratio_i=samples,
            spatial_scale_f=scale,
        )
        return _typed(found, feature, torch.float32, [None, *shape])


def _constant(g: Any, values: list, dtype: torch.dtype) -> Any:
    return g.op('Constant', value_t=torch.tensor(values, dtype=dtype))


def _typed(value: Any, like: Any, dtype: torch.dtype, sizes: list[int | None]) -> Any:
    """``value`` with its type, which the exporter does not infer; what follows it is recorded accordingly."""
    value.setType(like.type().with_dtype(dtype).with_sizes(sizes))
    return value

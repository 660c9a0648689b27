"""Operators that ONNX has but mmcv's export does not map to; in PyTorch they compute the same as mmcv's.

mmcv 2.1 records RoIAlign for opsets before 16 (half a pixel off from then on), no NMS, and CARAFE as an operator of its
own, which onnxruntime does not know. Equal scores are ranked by index, as ONNX specifies for TopK.
"""

from functools import partial
from typing import Any

import mmcv.ops
import torch
from mmcv.ops.carafe import CARAFEPack
from torch import Tensor
from torch.autograd import Function

from apa_mmdet.ops.carafe import carafe_by_shifts


def topk(scores: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Returns the highest ``limit`` of the scores (n,), or all if there are fewer, and their indices; highest first.

    Example:
        >>> topk(torch.tensor([1., 3., 1.]), 2)
        (tensor([3., 1.]), tensor([1, 0]))
    """
    if torch.onnx.is_in_onnx_export():  # a number of scores that varies
        return scores.topk(torch.tensor(limit).clamp(max=scores.shape[0]))
    values, indices = scores.sort(descending=True, stable=True)
    return values[:limit], indices[:limit]


def nms(boxes: Tensor, scores: Tensor, limit: int, iou_threshold: float, score_threshold: float) -> Tensor:
    """Non-maximum suppression within each group of boxes and each class.

    Args:
        boxes: (B, n, 4) in B groups, x1, y1, x2, y2.
        scores: (B, C, n); those not above ``score_threshold`` are dropped.
        limit: largest number of boxes that are kept of a group and class.

    Returns:
        (k, 3), the group, class and index of each box that is kept; within a group and class, highest score first.

    Example:
        >>> boxes = torch.tensor([[[0., 0., 4., 4.], [0., 0., 4., 5.], [9., 9., 12., 12.]]])
        >>> nms(boxes, torch.tensor([[[.5, .6, .1]]]), 10, 0.5, 0.05)
        tensor([[0, 0, 1],
                [0, 0, 2]])
    """
    return _NonMaxSuppression.apply(boxes, scores, limit, iou_threshold, score_threshold)


def roi_align(feature: Tensor, rois: Tensor, size: tuple[int, int], scale: float, samples: int) -> Tensor:
    """RoIAlign on the map of one image, with pixel centers at halves (mmcv's ``aligned=True``).

    Args:
        feature: (1, C, H, W).
        rois: (R, 4), x1, y1, x2, y2 in pixels of the image.
        size: height and width of the results.
        scale: of the map against the image.
        samples: sampling points per bin in each direction; 0 for as many as the bin has pixels.

    Returns:
        (R, C, *size).
    """
    images = torch.zeros_like(rois[:, 0], dtype=torch.int64)
    return _RoIAlign.apply(feature, rois, images, size, scale, samples)


def use_exportable_carafe(model: torch.nn.Module) -> None:
    """Makes every CARAFE layer of the model compute in ONNX's own operators."""
    for module in model.modules():
        if isinstance(module, CARAFEPack):
            sizes = dict(kernel_size=module.up_kernel, group_size=module.up_group, scale_factor=module.scale_factor)
            module.feature_reassemble = partial(carafe_by_shifts, **sizes)


class _NonMaxSuppression(Function):
    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, limit: int, iou: float, threshold: float) -> Tensor:
        if torch.onnx.is_in_onnx_export():  # any row will do; the tracer would record these steps for nothing
            return torch.zeros(1, 3, dtype=torch.int64)
        rows = [torch.zeros(0, 3, dtype=torch.int64)]
        for group, label in (scores > threshold).any(2).nonzero().tolist():
            ranked, index = scores[group, label].sort(descending=True, stable=True)
            index = index[ranked > threshold]
            places = torch.arange(len(index), 0, -1).float()  # instead of scores: mmcv reorders equal ones
            kept = index[mmcv.ops.nms(boxes[group, index], places, iou)[1][:limit]]
            rows.append(torch.stack([torch.full_like(kept, group), torch.full_like(kept, label), kept], 1))
        return torch.cat(rows)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, limit: int, iou: float, threshold: float) -> Any:
        limits = (g.op('Constant', value_t=torch.tensor([value])) for value in (limit, float(iou), float(threshold)))
        return g.op('NonMaxSuppression', boxes, scores, *limits)


class _RoIAlign(Function):
    @staticmethod
    def forward(ctx: Any, feature: Tensor, rois: Tensor, images: Tensor, size: tuple, scale: float, samples: int):
        return mmcv.ops.roi_align(feature, torch.cat([images[:, None].to(rois), rois], 1), size, scale, samples)

    @staticmethod
    def symbolic(g: Any, feature: Any, rois: Any, images: Any, size: tuple, scale: float, samples: int) -> Any:
        options = dict(output_height_i=size[0], output_width_i=size[1], sampling_ratio_i=samples, spatial_scale_f=scale)
        return g.op('RoiAlign', feature, rois, images, coordinate_transformation_mode_s='half_pixel', **options)

"""The stages of an export: functions of named tensors, each of which is checked by itself.

Letters: N images, H x W their size, P proposals, C classes, K = C or, with class-agnostic boxes, 1; D detections.
"""

import inspect
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from mmdet.models.detectors import BaseDetector, SingleStageDetector
from torch import Tensor

from apa_mmdet.utils.model import input_channels

from .unsupported import check_layers, check_methods

Tensors = dict[str, Tensor]
Stage = Callable[[Tensors], Tensors]
PROBE_SIDE = 256  # pixels of an image that shows the outputs of a model


class ExportPlan(NamedTuple):
    """Everything that is recorded of a model.

    Attributes:
        stages: in order; each reads tensors by name and returns new ones.
        results: names of the graph's outputs, among the outputs of the stages.
        axes: names of the dimensions that may vary, by tensor.
        one_image: whether the input is one image with its height and width.
        adjust: replaces tensors before a stage is checked, so that its outputs are not empty.
        channels: of the images, C_in below.
    """

    stages: list[Stage]
    results: tuple[str, ...]
    axes: dict[str, dict[int, str]]
    one_image: bool = False
    adjust: Stage = lambda values: {}
    channels: int = 3

    def run(self, inputs: Tensors) -> Tensors:
        """Returns every tensor that the stages compute in PyTorch, by name."""
        values = dict(inputs)
        for stage in self.stages:
            values.update(stage(values))
        return {name: tensor for name, tensor in values.items() if name not in inputs}


def backbone_plan(model: BaseDetector) -> ExportPlan:
    """Images (N, C_in, H, W) → maps of backbone and neck: ``p2`` of stride 4, ``p3`` of stride 8 and so on."""
    check_layers(model, 'backbone', 'neck')
    levels = [round(math.log2(PROBE_SIDE / t.shape[2])) for t in model.extract_feat(_probe(model))]
    names = [f'p{level}' if len(set(levels)) == len(levels) else f'map_{i}' for i, level in enumerate(levels)]
    return _one_stage_plan(model, lambda values: dict(zip(names, model.extract_feat(values['image']))))


def single_stage_plan(model: SingleStageDetector) -> ExportPlan:
    """Images (N, C_in, H, W) → maps of the head, named as in mmdet: ``cls_scores_0``, …, ``bbox_preds_0``, …"""
    check_layers(model, 'backbone', 'neck', 'bbox_head')
    check_methods(model, SingleStageDetector, 'the detector', '_forward')  # more than the head on its maps
    names = list(inspect.signature(model.bbox_head.predict_by_feat).parameters)

    def run(values: Tensors) -> Tensors:
        outputs = model.bbox_head(model.extract_feat(values['image']))
        outputs = outputs if isinstance(outputs[0], (list, tuple)) else (outputs,)  # one list of maps, or several
        return {f'{name}_{i}': t for name, maps in zip(names, outputs) for i, t in enumerate(maps)}

    return _one_stage_plan(model, run)


def _probe(model: BaseDetector) -> Tensor:
    return torch.zeros(1, input_channels(model), PROBE_SIDE, PROBE_SIDE)


def _one_stage_plan(model: BaseDetector, run: Stage) -> ExportPlan:
    names = tuple(run(dict(image=_probe(model))))
    maps = {name: {0: 'batch', 2: f'height_{name}', 3: f'width_{name}'} for name in names}
    axes = dict(image={0: 'batch', 2: 'height', 3: 'width'}, **maps)
    return ExportPlan([run], names, axes, channels=input_channels(model))

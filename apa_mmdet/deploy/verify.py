"""Compares an ONNX graph in onnxruntime with PyTorch, stage by stage."""

from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from onnx.utils import Extractor
from torch import nn

from .stages import ExportPlan, Tensors

TOLERANCE = 1e-4  # of the largest value: float32 sums in another order differ by less


class Difference(NamedTuple):
    """The largest difference between onnxruntime and PyTorch in a tensor, also relative to its largest value."""

    tensor: str
    shape: tuple[int, ...]
    absolute: float
    relative: float

    def __str__(self) -> str:
        shape = 'x'.join(map(str, self.shape))
        return f'{self.tensor:>16} {shape:>18}   largest difference {self.absolute:.1e}, relative {self.relative:.1e}'


def example_of(plan: ExportPlan, images: tuple[int, ...]) -> Tensors:
    """Random images with detail of two scales, like normalized ones; ``image_shape`` is smaller, as if padded."""
    noise = torch.Generator().manual_seed(0)
    coarse = torch.randn(*images[:2], images[2] // 16 + 1, images[3] // 16 + 1, generator=noise)
    image = nn.functional.interpolate(coarse, images[2:], mode='nearest')
    image += 0.3 * torch.randn(images, generator=noise)
    return dict(image=image, image_shape=torch.tensor(images[2:]) - 3.0) if plan.one_image else dict(image=image)


def run_stages(plan: ExportPlan, inputs: Tensors) -> Tensors:
    """Returns every tensor that the stages compute in PyTorch, by name."""
    values = dict(inputs)
    for stage in plan.stages:
        values.update(stage.run(values))
    return {name: tensor for name, tensor in values.items() if name not in inputs}


def stage_sessions(content: onnx.ModelProto, plan: ExportPlan) -> list[onnxruntime.InferenceSession]:
    """Opens each stage of the graph as a graph of its own."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    parts = [content]
    if len(plan.stages) > 1:
        names = {value.name for value in (*content.graph.input, *content.graph.output)}
        split = Extractor(content)
        # an input that no operator reads is not in the graph
        parts = [
            split.extract_model([n for n in stage.inputs if n in names], list(stage.outputs)) for stage in plan.stages
        ]
    return [
        onnxruntime.InferenceSession(part.SerializeToString(), options, providers=['CPUExecutionProvider'])
        for part in parts
    ]


@torch.no_grad()
def compare(sessions: list[onnxruntime.InferenceSession], plan: ExportPlan, inputs: Tensors) -> list[Difference]:
    """Compares each stage in onnxruntime with PyTorch on the same tensors.

    Over all stages a difference in the last digit can change which of two boxes is kept.
    """
    differences, values = [], dict(inputs)
    for stage, session in zip(plan.stages, sessions):
        values.update(stage.adjust(values))
        want = stage.run(values)
        got = session.run(list(want), {value.name: values[value.name].numpy() for value in session.get_inputs()})
        differences += [_difference(name, found, tensor.numpy()) for found, (name, tensor) in zip(got, want.items())]
        values.update(want)
    return differences


def _difference(name: str, got: np.ndarray, want: np.ndarray) -> Difference:
    if got.shape != want.shape or got.dtype != want.dtype:
        return Difference(name, got.shape, np.inf, np.inf)
    absolute = float(np.abs(got.astype(np.float64) - want).max(initial=0))
    return Difference(name, got.shape, absolute, absolute / max(float(np.abs(want).max(initial=0)), 1e-30))


def raise_if_different(differences: dict[tuple[int, ...], list[Difference]]) -> None:
    """Raises ValueError if a tensor differs by more than :data:`TOLERANCE`, for any size of images."""
    for images, found in differences.items():
        for difference in found:
            if not difference.relative <= TOLERANCE:
                size = 'x'.join(map(str, images))
                first = images == next(iter(differences))
                hint = (
                    ''
                    if first
                    else '; the model computes with sizes in Python: try --dynamic size, or --dynamic with no value'
                )
                raise ValueError(
                    f'onnxruntime and PyTorch differ in {difference.tensor} by {difference.relative:.1e} of its '
                    f'largest value for images {size} (allowed: {TOLERANCE:g}); nothing is written{hint}'
                )

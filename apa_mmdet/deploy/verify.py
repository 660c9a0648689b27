"""Compares an ONNX graph in onnxruntime with PyTorch, stage by stage."""

from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from onnx.utils import Extractor
from torch import nn

from apa_mmdet.utils.errors import CodedError

from .stages import ExportPlan, Stage, Tensors

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


class Verifier:
    """Compares each stage in onnxruntime with PyTorch on the same tensors.

    Over all stages a difference in the last digit can change which of two boxes is kept.
    """

    def __init__(self, content: onnx.ModelProto, plan: ExportPlan) -> None:
        self.graph, self.plan = Extractor(content), plan
        self.sessions: dict[Stage, onnxruntime.InferenceSession] = {}

    @torch.no_grad()
    def compare(self, images: tuple[int, ...]) -> list[Difference]:
        """Returns the differences in all tensors that the stages compute, for images of a shape."""
        differences, values = [], example_of(self.plan, images)
        for stage in self.plan.stages:
            values.update(self.plan.adjust(values))
            want = stage(values)
            if stage not in self.sessions:
                self.sessions[stage] = self._open(values, want)
            inputs = {value.name: values[value.name].numpy() for value in self.sessions[stage].get_inputs()}
            got = self.sessions[stage].run(list(want), inputs)
            differences += [_difference(name, new, tensor.numpy()) for new, (name, tensor) in zip(got, want.items())]
            values.update(want)
        return differences

    def _open(self, inputs: Tensors, outputs: Tensors) -> onnxruntime.InferenceSession:
        """Opens the part of the graph between some tensors as a graph of its own."""
        known = [name for name in inputs if name in self.graph.value_infos]  # an input that no operator reads is not
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        part = self.graph.extract_model(known, list(outputs)).SerializeToString()
        return onnxruntime.InferenceSession(part, options, providers=['CPUExecutionProvider'])


def _difference(name: str, got: np.ndarray, want: np.ndarray) -> Difference:
    if got.shape != want.shape or got.dtype != want.dtype:
        return Difference(name, got.shape, np.inf, np.inf)
    absolute = float(np.abs(got.astype(np.float64) - want).max(initial=0))
    return Difference(name, got.shape, absolute, absolute / max(float(np.abs(want).max(initial=0)), 1e-30))


def raise_if_different(differences: dict[tuple[int, ...], list[Difference]]) -> None:
    """Raises ``other-results`` if a tensor differs by more than :data:`TOLERANCE`, for any size of images."""
    hint = ''
    for images, found in differences.items():
        for name, _, _, relative in found:
            if not relative <= TOLERANCE:
                raise CodedError(
                    'other-results',
                    f'onnxruntime and PyTorch differ in {name} by {relative:.1e} of its largest value for images '
                    f'{"x".join(map(str, images))} (allowed: {TOLERANCE:g}); nothing is written{hint}',
                )
        hint = '; the model computes with sizes in Python: try --dynamic size, or --dynamic with no value'

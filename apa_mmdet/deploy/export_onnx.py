"""Exports a detector, or its backbone and neck, to an ONNX file that gives the same results in onnxruntime.

Only ONNX's own operators are used. The graph is recorded by torch's TorchScript exporter, which every torch since 2.1
has, in a tenth of the time of the exporter based on torch.export (``exporter='dynamo'``, for plans of one stage).
"""

import inspect
import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import onnx
import torch
from mmengine.config import Config
from torch import Tensor, nn
from tqdm import tqdm

from apa_mmdet.checkpoint.class_names import recorded_classes
from apa_mmdet.checkpoint.io import read_checkpoint
from apa_mmdet.checkpoint.loading import load_whole
from apa_mmdet.models.calibration import name_classes
from apa_mmdet.utils.config import build_detector, load_config
from apa_mmdet.utils.errors import in_one_line
from apa_mmdet.utils.fileio import atomic_write, refuse_existing

from .operators import use_exportable_carafe
from .stages import ExportPlan, backbone_plan
from .two_stage import detector_plan
from .unsupported import NotExportable
from .verify import TOLERANCE, Difference, Verifier, example_of, raise_if_different

PARTS = dict(backbone=backbone_plan, detector=detector_plan)
EXPORTERS = ('torchscript', 'dynamo')
OPSETS = (17, 20)  # LayerNormalization needs 17, RoiAlign and GridSample 16; TorchScript's exporter ends at 20


class Exported(NamedTuple):
    """A written file with its inputs and outputs, and the differences that its check found, by size of images."""

    path: Path
    opset: int
    inputs: list[str]
    outputs: list[str]
    differences: dict[tuple[int, ...], list[Difference]]

    def __str__(self) -> str:
        lines = []
        for images, differences in self.differences.items():
            lines += [f'onnxruntime and PyTorch, images {"x".join(map(str, images))} (allowed: {TOLERANCE:g} relative)']
            lines += map(str, differences)
        size = f'{self.path.stat().st_size / 1e6:.1f} MB, opset {self.opset}'
        lines.append(f'written: {self.path}, {size}; {", ".join(self.inputs)} → {", ".join(self.outputs)}')
        return '\n'.join(lines)


def export_onnx(
    config: str,
    checkpoint: str | None,
    out: str,
    part: str = 'backbone',
    shape: tuple[int, int] = (800, 1344),
    dynamic: Sequence[str] | None = None,
    opset: int = OPSETS[0],
    exporter: str = 'torchscript',
    cfg_options: dict | None = None,
) -> Exported:
    """Exports a part of a config's detector, in eval mode and float32, and checks it.

    Args:
        config: of the detector.
        checkpoint: its weights; None for random ones.
        out: path of the file, which is written atomically, and only if the check passes.
        part: ``backbone``, with the neck, or ``detector``.
        shape: height and width of the images for recording and checking.
        dynamic: what may vary: ``batch``, the number of images, and ``size``; None for all that the part allows, which
            is ``size`` for a detector with proposals.
        opset: version of ONNX's operators.
        exporter: ``torchscript`` or ``dynamo``.
        cfg_options: settings of the config.

    Raises:
        NotExportable: if a part of the model cannot be exported, before the export starts.
        OSError: if a file is missing, or ``out`` cannot be written, or is the config or the checkpoint.
        BadConfig, BadCheckpoint, WrongWeights: if config or checkpoint are wrong.
        CodedError: ``not-computable``, ``not-recorded``, ``not-run`` or ``other-results``, if torch or onnxruntime
            fails, or the check.
    """
    refuse_existing(out, force=True, sources=filter(None, (config, checkpoint)))
    with tqdm(total=5, desc='build', bar_format='{desc:<28} |{bar:20}| {n_fmt}/{total_fmt} {elapsed}') as steps:

        def step(name: str) -> None:
            steps.set_description_str(name, refresh=False)
            steps.update()

        model = build(load_config(config, cfg_options), config)
        classes = load_weights(model, Path(checkpoint), part) if checkpoint else None
        what = f'{part} of {type(model).__name__} cannot be computed from an image alone'
        with in_one_line('not-computable', what, keep=NotExportable):
            plan = PARTS[part](model)
        dynamic = (['size'] if plan.one_image else ['batch', 'size']) if dynamic is None else dynamic
        shapes = _shapes(plan, shape, dynamic)
        steps.total = 3 + len(shapes)
        step('record')
        with in_one_line('not-recorded', 'torch cannot record the graph', keep=NotExportable):
            content = _record(plan, shapes, dynamic, opset, exporter)
        differences = {}
        with in_one_line('not-run', 'onnxruntime cannot run the graph', keep=NotExportable):
            verifier = Verifier(content, plan)
            for images in shapes:
                step(f'check {"x".join(map(str, images))}')
                differences[images] = verifier.compare(images)
        raise_if_different(differences)
        step('write')
        _finish(content, plan, model, classes)
        atomic_write(out, content.SerializeToString())
        steps.update()
    inputs, outputs = (list(map(_signature, values)) for values in (content.graph.input, content.graph.output))
    return Exported(Path(out), opset, inputs, outputs, differences)


def build(cfg: Config, path: str) -> nn.Module:
    """Builds the model of a config in eval mode, on the CPU, without its weights; it has to be a detector."""
    model = build_detector(cfg, path).eval().requires_grad_(False)
    if not hasattr(model, 'backbone'):
        reason = f"{type(model).__name__} of {path} has no backbone; name a detector's config"
        raise NotExportable('no-backbone', reason)
    use_exportable_carafe(model)
    return model


def load_weights(model: nn.Module, checkpoint: Path, part: str = 'detector') -> list[str] | None:
    """Loads the weights of a checkpoint, which have to fit, into the model, or only into its backbone and neck.

    Returns the names of the classes, where the checkpoint has them.
    """
    content = read_checkpoint(checkpoint)
    weights = content.weights
    if part == 'backbone':
        parts = {name: child for name, child in model.named_children() if name in ('backbone', 'neck')}
        weights = {name: tensor for name, tensor in weights.items() if name.partition('.')[0] in parts}
        load_whole(nn.ModuleDict(parts), weights, str(checkpoint), 'the backbone')
    else:
        load_whole(model, weights, str(checkpoint), 'the detector')
    classes = recorded_classes(content.meta)
    name_classes(model, classes)
    return list(classes) if classes else None


def _shapes(plan: ExportPlan, shape: tuple[int, int], dynamic: Sequence[str]) -> list[tuple[int, ...]]:
    """Shapes of the images for the check: that of the export and, if it may vary, another one."""
    if 'batch' in dynamic and plan.one_image:
        reason = 'a detector with proposals takes one image at a time; remove batch from --dynamic'
        raise NotExportable('one-image-only', reason)
    height, width = shape
    other = (1 + ('batch' in dynamic), plan.channels, height, width)
    if 'size' in dynamic:  # multiples of 32, as the data preprocessor makes them
        smaller = [(side // 64 + 1) * 32 for side in shape]
        other = (*other[:2], *(new if new != side else side + 32 for new, side in zip(smaller, shape)))
    return list(dict.fromkeys([(1, plan.channels, height, width), other]))


class _AllStages(nn.Module):
    """All stages of a plan as one module; it returns every tensor that they compute."""

    def __init__(self, plan: ExportPlan, inputs: Sequence[str]) -> None:
        super().__init__()
        self.plan, self.inputs = plan, inputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.plan.run(dict(zip(self.inputs, inputs))).values())


def _record(
    plan: ExportPlan, shapes: list[tuple[int, ...]], dynamic: Sequence[str], opset: int, exporter: str
) -> onnx.ModelProto:
    """Records the graph of all stages; every tensor that passes between two of them is an output."""
    dynamo = exporter == 'dynamo'
    example = example_of(plan, shapes[-1 if dynamo else 0])  # torch.export would take one image for a constant
    values = plan.run(example)
    free = ('detections', 'proposals', *dynamic, *(['height', 'width'] if 'size' in dynamic else []))
    axes = {name: {dim: a for dim, a in labels.items() if a.startswith(free)} for name, labels in plan.axes.items()}
    module, args = _AllStages(plan, list(example)).eval(), tuple(example.values())
    options = dict(input_names=list(example), output_names=list(values), opset_version=opset)
    known = inspect.signature(torch.onnx.export).parameters
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')  # sizes read in Python: the check uses another size
        if not dynamo:
            options.update(dict(dynamo=False) if 'dynamo' in known else {}, dynamic_axes=axes)
            file = io.BytesIO()
            torch.onnx.export(module, args, file, **options)
            content = onnx.load_from_string(file.getvalue())
        elif plan.one_image or 'dynamic_shapes' not in known:
            reason = 'a detector with proposals' if plan.one_image else f'torch {torch.__version__}'
            raise NotExportable('torchscript-only', f'{reason} needs TorchScript; remove --exporter dynamo')
        else:
            options['dynamic_shapes'] = ((dict.fromkeys(axes['image'], torch.export.Dim.DYNAMIC),),)
            content = torch.onnx.export(module, args, dynamo=True, verbose=False, **options).model_proto
    for output in content.graph.output:  # the exporter lacks some sizes, and names others itself
        tensor, labels = values[output.name], axes.get(output.name, {})
        dtype = onnx.helper.np_dtype_to_tensor_dtype(tensor.numpy().dtype)
        shape = [labels.get(dim, size) for dim, size in enumerate(tensor.shape)]
        output.CopyFrom(onnx.helper.make_tensor_value_info(output.name, dtype, shape))
    onnx.checker.check_model(content)
    if foreign := {node.domain for node in content.graph.node} - {'', 'ai.onnx'}:
        raise NotExportable('foreign-operator', f'the graph has operators of {", ".join(sorted(foreign))}, not of ONNX')
    return content


def _finish(content: onnx.ModelProto, plan: ExportPlan, model: nn.Module, classes: list[str] | None) -> None:
    """Keeps only the results as outputs, and adds the normalization of images and the class names as metadata."""
    results = [value for name in plan.results for value in content.graph.output if value.name == name]
    del content.graph.output[:]
    content.graph.output.extend(results)
    preprocessor = model.data_preprocessor
    metadata = dict(pad_size_divisor=getattr(preprocessor, 'pad_size_divisor', 1), classes=classes)
    if getattr(preprocessor, '_enable_normalize', False):
        metadata.update({name: getattr(preprocessor, name).flatten().tolist() for name in ('mean', 'std')})
        metadata['channels'] = 'RGB' if preprocessor._channel_conversion else 'BGR'  # mmcv reads BGR
    onnx.helper.set_model_props(content, {name: json.dumps(value) for name, value in metadata.items() if value})
    onnx.checker.check_model(content)


def _signature(value: onnx.ValueInfoProto) -> str:
    dims = (dim.dim_param or str(dim.dim_value) for dim in value.type.tensor_type.shape.dim)
    return f'{value.name} ({", ".join(dims)})'

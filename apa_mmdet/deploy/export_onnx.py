"""Writes a detector, or its backbone and neck, as an ONNX file, once onnxruntime computes from it what PyTorch does.

Nothing but ONNX's own operators is used. The graph is recorded by torch's TorchScript exporter, which every torch from
2.1 on has, in a tenth of the time of the one on torch.export (``exporter='dynamo'``, for what has a single stage).
"""

import inspect
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import onnx
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from tqdm import tqdm

from apa_mmdet.checkpoint.io import read_checkpoint
from apa_mmdet.utils.config import load_config
from apa_mmdet.utils.errors import one_line
from apa_mmdet.utils.fileio import atomic_write

from .operators import record_carafe
from .stages import NotExportable, Plan, Tensors, backbone_plan, detector_plan
from .verify import Difference, compare, example_of, refuse_different, run_stages, stage_sessions

PARTS = dict(backbone=backbone_plan, detector=detector_plan)
EXPORTERS = ('torchscript', 'dynamo')
OPSETS = (17, 20)  # LayerNormalization is of 17, RoiAlign and GridSample of 16; TorchScript's exporter ends with 20


class Exported(NamedTuple):
    """A file that was written, what it takes and gives, and what its check found, for each size of images."""

    path: Path
    opset: int
    inputs: list[str]
    outputs: list[str]
    differences: dict[tuple[int, ...], list[Difference]]


def export_onnx(
    config: str,
    checkpoint: str | None,
    out: str,
    part: str = 'backbone',
    shape: tuple[int, int] = (800, 1344),
    dynamic: Sequence[str] | None = None,
    opset: int = OPSETS[0],
    exporter: str = 'torchscript',
    options: dict | None = None,
) -> Exported:
    """Export a part of a config's detector, in eval mode and float32, and check it.

    Args:
        config: of the detector.
        checkpoint: its weights; None for random ones.
        out: path of the file, which is written whole, and only if the check passes.
        part: ``backbone``, with the neck, or ``detector``.
        shape: height and width of the images that it is recorded and checked with.
        dynamic: what may differ from that later on: ``batch``, their number, and ``size``; None for all that the part
            allows, which is ``size`` alone for a detector with proposals.
        opset: version of ONNX's operators.
        exporter: ``torchscript`` or ``dynamo``.
        options: settings of the config.

    Raises:
        NotExportable: if the model has a part that cannot be exported, before the export starts.
        OSError: if a file is not there, or ``out`` cannot be written.
        ValueError: if config or checkpoint are wrong, or the check fails.
    """
    if not OPSETS[0] <= opset <= OPSETS[1]:
        raise ValueError(f'opset {opset} is not among {OPSETS[0]} to {OPSETS[1]}')
    with tqdm(total=5, desc='build', bar_format='{desc:<28} |{bar:20}| {n_fmt}/{total_fmt} {elapsed}') as steps:
        model = build(load_config(config, options), config)
        classes = load_weights(model, Path(checkpoint), part) if checkpoint else None
        with _in_one_line(f'{part} of {type(model).__name__} cannot be computed from an image alone'):
            plan = PARTS[part](model)
        if dynamic is None:
            dynamic = ('size',) if plan.one_image else ('batch', 'size')
        shapes = _shapes(plan, shape, dynamic)
        steps.total = 3 + len(shapes)
        _step(steps, 'record')
        content = _record(plan, model, shapes, dynamic, opset, exporter)
        differences = {}
        with _in_one_line('onnxruntime cannot run the graph'):
            sessions = stage_sessions(content, plan)
            for images in shapes:
                _step(steps, f'check {"x".join(map(str, images))}')
                differences[images] = compare(sessions, plan, example_of(plan, images))
        refuse_different(differences)
        _step(steps, 'write')
        _finish(content, plan, model, classes)
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        atomic_write(out, content.SerializeToString())
        steps.update()
    inputs, outputs = (
        [_described(value) for value in values] for values in (content.graph.input, content.graph.output)
    )
    return Exported(Path(out), opset, inputs, outputs, differences)


@contextmanager
def _in_one_line(what: str) -> Iterator[None]:
    """An error of torch, onnx or onnxruntime, which may be of any class, as one of this file's."""
    try:
        yield
    except NotExportable:
        raise
    except Exception as error:
        raise ValueError(f'{what}: {one_line(error)}') from error


def _step(steps: tqdm, name: str) -> None:
    steps.set_description_str(name, refresh=False)
    steps.update()


def build(cfg: Config, path: str) -> nn.Module:
    """The model of a config in eval mode, on the CPU, without its weights.

    Raises:
        ValueError: if there is none, or it cannot be built.
    """
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    if not isinstance(cfg.get('model'), dict):
        raise ValueError(f'{path} is no config of a detector: it has no `model`')
    try:
        model = MODELS.build(cfg.model).eval().requires_grad_(False)
    except Exception as error:  # a config is a program: anything may come out of it
        raise ValueError(f'{path}: its model cannot be built: {one_line(error)}') from error
    if not hasattr(model, 'backbone'):
        raise NotExportable(f'{type(model).__name__} of {path} has no backbone; name the config of a detector')
    record_carafe(model)
    return model


def load_weights(model: nn.Module, checkpoint: Path, part: str = 'detector') -> list[str] | None:
    """Give the model, or its backbone and neck, the weights of a checkpoint; all of them have to be there.

    Returns:
        The names of the classes, where the checkpoint has them.

    Raises:
        OSError: if the file is not there or not to be read.
        ValueError: if it is no checkpoint, or of another model.
    """
    found = read_checkpoint(checkpoint)
    for name, own in model.state_dict().items():
        if part == 'backbone' and name.split('.')[0] not in ('backbone', 'neck'):
            continue
        if name not in found.weights or found.weights[name].shape != own.shape:
            had = f'{name} of {tuple(found.weights[name].shape)}' if name in found.weights else f'no {name}'
            raise ValueError(
                f'{checkpoint} has {had}, which the config asks for with {tuple(own.shape)}: '
                'was it trained with this config?'
            )
        own.copy_(found.weights[name])
    classes = (found.meta.get('dataset_meta') or {}).get('classes')
    return list(classes) if classes else None


def _shapes(plan: Plan, shape: tuple[int, int], dynamic: Sequence[str]) -> list[tuple[int, ...]]:
    """Shapes of the images to check with: that of the export and, where others are to work, one of these."""
    if 'batch' in dynamic and plan.one_image:
        raise NotExportable('a detector with proposals is exported for one image at a time; leave out --dynamic batch')
    height, width = shape
    other = (1 + ('batch' in dynamic), 3, height, width)
    if 'size' in dynamic:  # multiples of 32, as the data preprocessor makes them
        smaller = [(side // 64 + 1) * 32 for side in shape]
        other = (*other[:2], *(new if new != side else side + 32 for new, side in zip(smaller, shape)))
    return list(dict.fromkeys([(1, 3, height, width), other]))


class _Recorded(nn.Module):
    """All stages of a plan, as a module of tensors in order; every tensor of theirs is a result."""

    def __init__(self, plan: Plan, model: nn.Module, inputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self.plan, self.inputs = model, plan, inputs

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(self.inputs, inputs))
        for stage in self.plan.stages:
            values.update(stage.run(values))
        return tuple(values[name] for name in values if name not in self.inputs)


def _record(
    plan: Plan, model: nn.Module, shapes: list[tuple[int, ...]], dynamic: Sequence[str], opset: int, exporter: str
) -> onnx.ModelProto:
    """The graph of all stages; every tensor that passes between two of them is an output of its own."""
    example = example_of(plan, shapes[-1 if exporter == 'dynamo' else 0])  # torch.export takes one image for a constant
    with torch.no_grad():
        values = run_stages(plan, example)
    fixed = () if 'size' in dynamic else (2, 3)
    fixed += () if 'batch' in dynamic or plan.one_image else (0,)
    kept = {
        name: {dim: label for dim, label in axes.items() if dim not in fixed or label in ('detections', 'proposals')}
        for name, axes in plan.axes.items()
    }
    file = io.BytesIO()
    given = dict(input_names=list(example), output_names=list(values), opset_version=opset)
    module = _Recorded(plan, model, list(example)).eval()
    with _in_one_line('torch cannot record the graph'), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')  # sizes read in Python; what comes of them is checked with another size
        if exporter == 'dynamo':
            content = _record_by_dynamo(module, example, kept['image'], given)
        else:
            old = dict(dynamo=False) if 'dynamo' in inspect.signature(torch.onnx.export).parameters else {}
            torch.onnx.export(module, tuple(example.values()), file, dynamic_axes=kept, **given, **old)
            content = onnx.load_from_string(file.getvalue())
    for output in content.graph.output:  # after some operators the exporter knows no sizes, or gives them odd names
        sizes, names = values[output.name].shape, kept.get(output.name, {})
        kind = onnx.helper.np_dtype_to_tensor_dtype(values[output.name].numpy().dtype)
        shape = [names.get(dim, size) for dim, size in enumerate(sizes)]
        output.CopyFrom(onnx.helper.make_tensor_value_info(output.name, kind, shape))
    onnx.checker.check_model(content)
    foreign = {node.domain for node in content.graph.node} - {'', 'ai.onnx'}
    if foreign:
        raise NotExportable(f'operators of {", ".join(sorted(foreign))} were recorded, which are not of ONNX')
    return content


def _record_by_dynamo(module: nn.Module, example: Tensors, axes: dict[int, str], given: dict) -> onnx.ModelProto:
    if 'dynamic_shapes' not in inspect.signature(torch.onnx.export).parameters:
        raise NotExportable(f'torch {torch.__version__} has no exporter on torch.export; leave out --exporter dynamo')
    if len(module.plan.stages) > 1:
        raise NotExportable('a detector with proposals is recorded by TorchScript alone; leave out --exporter dynamo')
    shapes = dict.fromkeys(axes, torch.export.Dim.DYNAMIC)
    program = torch.onnx.export(
        module, tuple(example.values()), dynamo=True, dynamic_shapes=((shapes,),), verbose=False, **given
    )
    return program.model_proto


def _finish(content: onnx.ModelProto, plan: Plan, model: nn.Module, classes: list[str] | None) -> None:
    """Leave the results alone as outputs, and write into the file how images are normalised and classes called."""
    results = [value for name in plan.results for value in content.graph.output if value.name == name]
    del content.graph.output[:]
    content.graph.output.extend(results)
    prepared = model.data_preprocessor
    about = dict(pad_size_divisor=getattr(prepared, 'pad_size_divisor', 1), classes=classes)
    if getattr(prepared, '_enable_normalize', False):
        about.update({name: getattr(prepared, name).flatten().tolist() for name in ('mean', 'std')})
        about['channels'] = 'RGB' if prepared._channel_conversion else 'BGR'  # mmcv reads BGR
    onnx.helper.set_model_props(content, {name: json.dumps(value) for name, value in about.items() if value})
    onnx.checker.check_model(content)


def _described(value: onnx.ValueInfoProto) -> str:
    dims = (dim.dim_param or str(dim.dim_value) for dim in value.type.tensor_type.shape.dim)
    return f'{value.name} ({", ".join(dims)})'

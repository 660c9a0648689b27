"""Counts parameters and multiply-adds of a config's model."""

from typing import NamedTuple

import torch
from mmdet.structures import DetDataSample
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from torch import Tensor, nn

from apa_mmdet.datasets.image_loader_step import image_loader_step
from apa_mmdet.models.calibration import without_calibration
from apa_mmdet.utils.config import BadConfig, build_detector, is_classifier, leaves, section
from apa_mmdet.utils.model import input_channels

IN_MEMORY = 32, 32  # of CIFAR, whose images are in memory and of one size


class Complexity(NamedTuple):
    """Parameters, and multiply-adds of a forward pass on an image of ``shape``, which MMDetection calls FLOPs."""

    parameters: int
    flops: int
    shape: tuple[int, int]

    def __str__(self) -> str:
        size = 'x'.join(map(str, self.shape))
        return f'{self.parameters / 1e6:.2f} M parameters, {self.flops / 1e9:.1f} G multiply-adds at {size}'


def get_flops(cfg: Config, shape: tuple[int, int] | None = None) -> Complexity:
    """Counts the parameters and multiply-adds of a model; RoI heads work on the proposals of random weights.

    MMEngine counts convolutions and linear maps, but no norms, pointwise operations and sums of CARAFE. A calibration
    of scores has no others: the model is built without it, and needs no statistics of the training data.

    Args:
        cfg: config of a detector or classifier; no weights are read.
        shape: height and width of the image, in pixels; by default 800x1280, of a classifier what its test crops or
            resizes to, or 32x32 of data sets in memory, as CIFAR.

    Raises:
        BadConfig: if the model cannot be built; ``no-image-size``, if the test of a classifier says none.
    """
    torch.manual_seed(0)
    model = build_detector(without_calibration(cfg), cfg.filename or 'the config').eval()
    if is_classifier(cfg):
        return _count(model, torch.zeros(1, input_channels(model), *(shape or _size_of_test(cfg))))
    shape = shape or (800, 1280)
    image = torch.zeros(input_channels(model), *shape)
    sample = DetDataSample(metainfo=dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0)))
    data = model.data_preprocessor(dict(inputs=[image], data_samples=[sample]))
    model.forward = lambda batch: model._forward(batch, data['data_samples'])
    return _count(model, data['inputs'])


def _size_of_test(cfg: Config) -> tuple[int, int]:
    """Height and width of the images that the test of a classifier crops or resizes last."""
    dataset = next(leaves(section(cfg, 'test_dataloader').get('dataset')), None)
    pipeline = [step for step in (dataset or {}).get('pipeline') or () if isinstance(step, dict)]
    for step in reversed(pipeline):
        size = step.get('crop_size', step.get('scale'))
        if isinstance(size, int):
            return size, size
        if isinstance(size, (list, tuple)) and len(size) == 2:
            width, height = size
            return height, width
    if dataset is None or image_loader_step(pipeline):
        line = f'{cfg.filename or "the config"}: its test neither crops nor resizes images; give --shape HEIGHT WIDTH'
        raise BadConfig('no-image-size', line)
    return IN_MEMORY


def _count(model: nn.Module, batch: Tensor) -> Complexity:
    counts = get_model_complexity_info(model, inputs=(batch,), show_table=False, show_arch=False)
    return Complexity(counts['params'], counts['flops'], tuple(batch.shape[2:]))

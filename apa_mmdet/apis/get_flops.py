"""Counts parameters and multiply-adds of a config's model."""

from typing import NamedTuple

import torch
from mmdet.structures import DetDataSample
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from torch import Tensor, nn

from apa_mmdet.models.calibration import without_calibration
from apa_mmdet.utils.config import build_detector, is_classifier
from apa_mmdet.utils.model import input_channels


class Complexity(NamedTuple):
    """Parameters, and multiply-adds of a forward pass on one image, which MMDetection calls FLOPs."""

    parameters: int
    flops: int

    def __str__(self) -> str:
        return f'{self.parameters / 1e6:.2f} M parameters, {self.flops / 1e9:.1f} G multiply-adds'


def get_flops(cfg: Config, shape: tuple[int, int] | None = None) -> Complexity:
    """Counts the parameters and multiply-adds of a model; RoI heads work on the proposals of random weights.

    MMEngine counts convolutions and linear maps, but no norms, pointwise operations and sums of CARAFE. A calibration
    of scores has no others: the model is built without it, and needs no statistics of the training data.

    Args:
        cfg: config of a detector or classifier; no weights are read.
        shape: height and width of the image, in pixels; by default 800x1280, of a classifier what its test crops, or
            32x32 where it crops nothing.
    """
    torch.manual_seed(0)
    model = build_detector(without_calibration(cfg), cfg.filename or 'the config').eval()
    if is_classifier(cfg):
        pipeline = (cfg.get('test_dataloader') or {}).get('dataset', {}).get('pipeline', ())
        side = next((step['crop_size'] for step in pipeline if 'crop_size' in step), 32)
        return _count(model, torch.zeros(1, input_channels(model), *(shape or (side, side))))
    shape = shape or (800, 1280)
    image = torch.zeros(input_channels(model), *shape)
    sample = DetDataSample(metainfo=dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0)))
    data = model.data_preprocessor(dict(inputs=[image], data_samples=[sample]))
    model.forward = lambda batch: model._forward(batch, data['data_samples'])
    return _count(model, data['inputs'])


def _count(model: nn.Module, batch: Tensor) -> Complexity:
    counts = get_model_complexity_info(model, inputs=(batch,), show_table=False, show_arch=False)
    return Complexity(counts['params'], counts['flops'])

"""Counts parameters and multiply-adds of a config's model."""

from typing import NamedTuple

import torch
from mmdet.structures import DetDataSample
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config

from apa_mmdet.utils.config import build_detector
from apa_mmdet.utils.model import input_channels


class Complexity(NamedTuple):
    """Parameters, and multiply-adds of a forward pass on one image, which MMDetection calls FLOPs."""

    parameters: int
    flops: int

    def __str__(self) -> str:
        return f'{self.parameters / 1e6:.2f} M parameters, {self.flops / 1e9:.1f} G multiply-adds'


def get_flops(cfg: Config, shape: tuple[int, int] = (800, 1280)) -> Complexity:
    """Counts a detector's parameters and multiply-adds; RoI heads work on the proposals of random weights.

    MMEngine counts convolutions and linear maps, but no norms and pointwise operations.

    Args:
        cfg: config of a detector; no weights are read.
        shape: height and width of the image, in pixels.
    """
    torch.manual_seed(0)
    model = build_detector(cfg, cfg.filename or 'the config').eval()
    image = torch.zeros(input_channels(model), *shape)
    sample = DetDataSample(metainfo=dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0)))
    data = model.data_preprocessor(dict(inputs=[image], data_samples=[sample]))
    model.forward = lambda batch: model._forward(batch, data['data_samples'])
    counts = get_model_complexity_info(model, inputs=(data['inputs'],), show_table=False, show_arch=False)
    return Complexity(counts['params'], counts['flops'])

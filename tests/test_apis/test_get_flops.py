"""Parameters and multiply-adds, counted on an image as the detector takes it."""

import pytest
from mmengine.config import Config

from apa_mmdet.apis.get_flops import get_flops


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_images_have_the_channels_of_the_backbone(channels):
    backbone = dict(type='SEResNet', depth=18, base_channels=8, stem_channels=8, in_channels=channels)
    neck = dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=8, num_outs=5)
    head = dict(type='RetinaHead', num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1)
    model = dict(type='RetinaNet', backbone=backbone, neck=neck, bbox_head=head)
    model['data_preprocessor'] = dict(type='DetDataPreprocessor')
    few, many = (
        get_flops(Config(dict(model=dict(model, backbone=dict(backbone, in_channels=n)))), (64, 64))
        for n in (channels, channels + 1)
    )
    assert many.parameters - few.parameters == 7 * 7 * 8  # of the stem
    assert many.flops - few.flops == 7 * 7 * 8 * 32 * 32

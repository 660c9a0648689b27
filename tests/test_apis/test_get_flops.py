"""Parameters and multiply-adds, counted on an image as the detector takes it."""

import logging
import runpy
import sys

import pytest
from helpers.paths import ROOT
from mmengine.config import Config

from apa_mmdet.apis.get_flops import get_flops
from apa_mmdet.models.calibration import without_calibration


def retinanet(in_channels=5):
    backbone = dict(type='ResNet', depth=18, base_channels=8, stem_channels=8, in_channels=in_channels, num_stages=1)
    backbone.update(strides=(1,), dilations=(1,), out_indices=(0,))
    return dict(
        type='RetinaNet',
        data_preprocessor=dict(type='DetDataPreprocessor'),
        backbone=backbone,
        neck=dict(type='FPN', in_channels=[8], out_channels=8, num_outs=5),
        bbox_head=dict(type='RetinaHead', num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1),
    )


def test_images_have_the_channels_of_the_backbone():
    assert get_flops(Config(dict(model=retinanet())), (64, 64)).flops > 7 * 7 * 5 * 8 * 32 * 32  # of the stem alone


def test_a_calibration_needs_no_statistics():
    calibration = dict(type='FRACAL', stats='no/such/file.json')
    for calibrated in (
        dict(retinanet(), type='CalibrateScores', module=dict(type='RetinaNet'), calibration=calibration),
        dict(
            retinanet(),
            bbox_head=dict(type='mmdet.CalibrateScores', module=retinanet()['bbox_head'], calibration=calibration),
        ),
    ):
        cfg = Config(dict(model=calibrated))
        assert without_calibration(cfg).model == retinanet() and cfg.model == calibrated
    assert get_flops(cfg, (64, 64)) == get_flops(Config(dict(model=retinanet())), (64, 64))


def test_the_tool_prints_the_size_of_the_image(tmp_path, monkeypatch, capsys):
    Config(dict(model=retinanet())).dump(tmp_path / 'config.py')
    monkeypatch.setattr(sys, 'argv', ['get_flops.py', f'{tmp_path}/config.py', '--shape', '32', '64'])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / 'tools/get_flops.py'), run_name='__main__')
    logging.disable(logging.NOTSET)
    assert ended.value.code is None and capsys.readouterr().out.endswith(' G multiply-adds at 32x64\n')

"""Classifiers of MMPretrain with calibrated scores."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope

import apa_mmdet  # noqa: F401  registers

pytest.importorskip('mmpretrain')

COUNTS = [90, 9, 1]


@pytest.mark.parametrize('head, activation', [('LinearClsHead', torch.softmax), ('MultiLabelLinearClsHead', None)])
def test_a_classifier_predicts_calibrated_scores(head, activation):
    from mmpretrain.registry import MODELS
    from mmpretrain.structures import DataSample

    cfg = dict(
        type='mmdet.CalibrateScores',
        module=dict(type='ImageClassifier'),
        calibration=dict(type='mmdet.IIF', stats=dict(image_count=COUNTS)),
        backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=4, stem_channels=4),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type=head, num_classes=3, in_channels=32),
    )
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(ConfigDict(cfg)).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        raw = model.head.forward(model.extract_feat(images))  # past the calibration
        found = torch.stack([sample.pred_score for sample in model.predict(images, [DataSample(), DataSample()])])
    n = torch.tensor(COUNTS)
    logits = raw + ((100 - n) / n).log()
    torch.testing.assert_close(found, activation(logits, 1) if activation else logits.sigmoid())

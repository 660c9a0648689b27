"""Whole detectors: each detection has the calibrated score, and boxes, labels and weights are those of the stock one."""

import copy

import pytest
import torch
from helpers.paths import ROOT
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from apa_mmdet.models.calibration import FRACAL
from apa_mmdet.models.calibration.base import Channels
from apa_mmdet.models.losses import GumbelLink, SigmoidLink

C = 5
STATS = dict(image_count=[700, 90, 30, 4, 1], n_images=800, fractal_dimension=[1.9, 1.7, 1.8, 1.0, 1.0])
RESNET = dict(type='ResNet', depth=18, base_channels=4, norm_eval=True)
FPN = dict(type='FPN', in_channels=[4, 8, 16, 32], out_channels=8)
GOL = dict(type='DropLoss', num_classes=C)
EVERYTHING = dict(score_thr=0.0, nms=dict(type='nms', iou_threshold=2.0), max_per_img=10**6)


def two_stage(base, **head):
    model = Config.fromfile(ROOT / 'configs/_base_/models/mask_rcnn_se_r50_fpn.py').model
    if base == 'cascade':
        model = Config.fromstring("_base_ = 'mmdet::_base_/models/cascade-rcnn_r50_fpn.py'", '.py').model
    model.update(backbone=RESNET, neck=dict(FPN, num_outs=5))
    model.rpn_head.update(in_channels=8, feat_channels=8)
    model.roi_head.bbox_roi_extractor.out_channels = 8
    model.roi_head.pop('mask_head', None)
    for part in [model.roi_head.bbox_head] if base != 'cascade' else model.roi_head.bbox_head:
        part.pop('loss_cls' if 'loss_cls' in head else '', None)
        part.update(in_channels=8, fc_out_channels=8, num_classes=C, **head)
    model.type = 'CascadeRCNN' if base == 'cascade' else 'FasterRCNN'
    model.test_cfg.rpn.update(nms_pre=20, max_per_img=8)
    model.test_cfg.rcnn = dict(EVERYTHING)
    return model


def retinanet():
    head = dict(type='RetinaHead', num_classes=C, in_channels=8, feat_channels=8, stacked_convs=1)
    test_cfg = dict(EVERYTHING, nms_pre=10**6)
    return dict(
        type='RetinaNet',
        data_preprocessor=dict(type='DetDataPreprocessor'),
        backbone=RESNET,
        neck=dict(FPN, num_outs=5),
        bbox_head=head,
        test_cfg=test_cfg,
    )


DETECTORS = {
    'two stages, GOL': (lambda: two_stage('', loss_cls=GOL, reg_class_agnostic=True), GumbelLink()),
    'cascade, softmax': (lambda: two_stage('cascade'), None),
    'RetinaNet': (retinanet, SigmoidLink()),
}


def detections(model, image):
    sample = DetDataSample(metainfo=dict(img_shape=(32, 32), ori_shape=(32, 32), scale_factor=(1.0, 1.0)))
    with torch.no_grad():
        found = model.predict(image, [copy.deepcopy(sample)], rescale=False)[0].pred_instances
    rows = zip(found.labels.tolist(), found.bboxes.round(decimals=3).tolist(), found.scores.tolist())
    return {(label, *box): score for label, box, score in rows}


@pytest.mark.parametrize('name', DETECTORS)
def test_detections_have_calibrated_scores_and_the_same_boxes(name):
    init_default_scope('mmdet')
    make, link = DETECTORS[name]
    cfg = Config(dict(model=make())).model
    torch.manual_seed(1)
    stock = MODELS.build(cfg).eval()
    for path, module in stock.named_modules():
        if path.endswith(('fc_cls', 'retina_cls')):  # classes that differ
            nn.init.normal_(module.weight, std=0.5 if path.endswith('fc_cls') else 0.05)
            nn.init.normal_(module.bias)
    fracal = dict(type='FRACAL', stats=STATS)
    ours = MODELS.build(dict(cfg, type='CalibrateScores', module=dict(type=cfg['type']), calibration=fracal)).eval()
    ours.load_state_dict(stock.state_dict())
    image = torch.randn(1, 3, 32, 32)
    raw, calibrated = detections(stock, image), detections(ours, image)
    assert raw.keys() == calibrated.keys() and len(raw) >= 40
    calibration = FRACAL(STATS)
    if link is None:  # of a box, from the scores of all its classes and what is left for background
        for box in {key[1:] for key in raw}:
            p = torch.tensor([raw.get((label, *box), 0) for label in range(C)])
            p = torch.cat([p, 1 - p.sum(0, keepdim=True)])
            want = calibration(p.log(), None, Channels(extra=1)).softmax(0)
            got = [calibrated.get((label, *box), 0) for label in range(C)]
            assert got == pytest.approx(want[:C].tolist(), rel=2e-3, abs=1e-5)
    else:
        labels = torch.tensor([key[0] for key in raw])
        p = torch.tensor([*raw.values()]).double()
        x = p.logit() if isinstance(link, SigmoidLink) else -(-p.log()).log()
        want = link(x) * link(x + calibration.shift.double()[labels])
        got = torch.tensor([calibrated[key] for key in raw]).double()
        torch.testing.assert_close(got, want, rtol=2e-3, atol=1e-6)

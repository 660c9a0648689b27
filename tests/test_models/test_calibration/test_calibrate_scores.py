"""Heads of MMDetection with calibrated scores: the scores by their definition, from the raw logits of the head."""

import copy
import pickle
import re

import pytest
import torch
from helpers.paths import ROOT
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from torch import nn

from apa_mmdet.models.calibration import FRACAL, IIF, Calibration, CalibrationError, calibrate_scores
from apa_mmdet.models.calibration.base import Channels
from apa_mmdet.models.losses import APALink, GumbelLink

C = 3
STATS = dict(image_count=[900, 40, 2], n_images=1000, fractal_dimension=[1.9, 1.5, 1.0], names=['date', 'fig', 'plum'])
FRACTAL = dict(type='FRACAL', stats=STATS)
BOX_HEAD = dict(num_classes=C, in_channels=2, fc_out_channels=8, roi_feat_size=2)
DENSE = dict(num_classes=C, in_channels=4, feat_channels=4, stacked_convs=1)
NO_NORM = dict(norm_cfg=dict(type='GN', num_groups=2))
ONE_ANCHOR = dict(type='AnchorGenerator', ratios=[1.0], scales=[8], strides=[8, 16])
SSD = dict(type='SSDAnchorGenerator', strides=[8, 16], ratios=[[2], [2, 3]], min_sizes=[10, 20], max_sizes=[20, 40])
ROIS = torch.zeros(6, 2, 2, 2)
MAPS = [torch.zeros(2, 4, 6, 5), torch.zeros(2, 4, 3, 2)]
HEADS = {  # config, inputs, link
    'softmax': (dict(type='Shared2FCBBoxHead', **BOX_HEAD), ROIS, 'softmax'),
    'GOL': (
        dict(type='LargeVocabularyBBoxHead', **BOX_HEAD, loss_cls=dict(type='DropLoss', num_classes=C)),
        ROIS,
        'gumbel',
    ),
    'APA link': (
        dict(
            type='Shared2FCBBoxHead',
            **BOX_HEAD,
            loss_cls=dict(type='DropLoss', num_classes=C, link=dict(type='apa', lambda_init=0.4, kappa_init=1.3)),
        ),
        ROIS,
        'apa',
    ),
    'Seesaw': (
        dict(type='Shared2FCBBoxHead', **BOX_HEAD, loss_cls=dict(type='SeesawLoss', num_classes=C)),
        ROIS,
        'seesaw',
    ),
    'RetinaNet': (dict(type='RetinaHead', **DENSE), MAPS, 'sigmoid'),  # nine anchors
    'ATSS': (dict(type='ATSSHead', **DENSE, **NO_NORM, anchor_generator=ONE_ANCHOR), MAPS, 'sigmoid'),
    'RTMDet': (
        dict(
            type='RTMDetHead',
            **DENSE,
            **NO_NORM,
            anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16]),
            loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True),
            bbox_coder=dict(type='DistancePointBBoxCoder'),
        ),
        MAPS,
        'sigmoid',
    ),
    'YOLOX': (dict(type='YOLOXHead', **DENSE, strides=[8, 16]), MAPS, 'sigmoid'),
    'SSD': (
        dict(type='SSDHead', num_classes=C, in_channels=[4, 4], anchor_generator=dict(SSD, input_size=64)),
        MAPS,
        'softmax',  # four anchors on one level, six on the other
    ),
    'DINO': (
        dict(
            type='DINOHead',
            num_classes=C,
            embed_dims=8,
            num_pred_layer=3,
            as_two_stage=True,
            share_pred_layer=False,
            loss_cls=dict(type='FocalLoss', use_sigmoid=True),
        ),
        (torch.zeros(2, 2, 5, 8), [torch.full((2, 5, 4), 0.5)] * 3),
        'sigmoid',
    ),
    'DETR': (dict(type='DETRHead', num_classes=C, embed_dims=8), (torch.zeros(2, 2, 5, 8),), 'softmax'),
}


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


def build(cfg, calibration=FRACTAL):
    """A head with random weights, in eval mode, that gives logits of all sizes."""
    module = dict(type=cfg['type'])
    head = MODELS.build(dict(cfg, type='CalibrateScores', module=module, calibration=calibration)).eval()
    for parameter in head.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.5)
    return head


def drawn(inputs):
    """Inputs of the same shapes; references of queries stay as they are."""
    if isinstance(inputs, torch.Tensor):
        return torch.randn(inputs.shape) if not inputs.any() else inputs
    return type(inputs)(map(drawn, inputs))


def rows(outputs, channels):
    """Class logits (n, channels) as the heads of MMDetection flatten them."""
    first = outputs[0] if isinstance(outputs, tuple) else outputs
    maps = first if isinstance(first, (list, tuple)) else [first]
    maps = [t.permute(0, 2, 3, 1) if isinstance(first, (list, tuple)) else t for t in maps]
    return torch.cat([t.reshape(-1, channels) for t in maps]).detach().double()


def calibrated_scores(x, link):
    f = torch.tensor([0.9, 0.04, 0.002]).double()
    phi = torch.tensor([1.9, 1.5, 1.0]).double()
    w, log_c = -f.log10() - torch.tensor(3.0).double().log10(), torch.tensor(3.0).double().log10()
    if link in ('softmax', 'seesaw'):
        p = (x[:, :C] + w).exp() / phi**2
        rest = x[:, C:].exp() if link == 'softmax' else x.new_zeros(len(x), 0)
        return torch.cat([p, rest], 1) / torch.cat([p, rest], 1).sum(1, keepdim=True)
    a = dict(sigmoid=torch.sigmoid, gumbel=GumbelLink(), apa=APALink(0.4, 1.3).double())[link]
    return (a(x) * a(x + w - (phi**2 / (phi**2).sum()).log10() - log_c)).detach()


def scores_of(x, link):
    """As the stock heads compute them."""
    if link == 'seesaw':
        return x[:, :C].softmax(1)
    return dict(softmax=lambda x: x.softmax(1), sigmoid=torch.sigmoid, gumbel=GumbelLink(), apa=APALink(0.4, 1.3))[
        link
    ](x)


@pytest.mark.parametrize('name', HEADS)
def test_a_head_gives_calibrated_scores_in_eval_mode_alone(name):
    cfg, inputs, link = HEADS[name]
    head, inputs = build(cfg), drawn(inputs)
    channels = C + dict(softmax=1, seesaw=2).get(link, 0)
    call = (lambda f: f(*inputs)) if isinstance(inputs, tuple) else (lambda f: f(inputs))
    raw = rows(call(head.forward), channels)  # past the hook
    outputs = call(head)
    got = scores_of(rows(outputs, channels), link)
    torch.testing.assert_close(got.double().detach(), calibrated_scores(raw, link), rtol=1e-4, atol=1e-7)
    assert (got.double() - scores_of(raw, link)).abs().max() > 0.01
    assert type(outputs) is type(call(head.forward))
    head.train()
    assert torch.equal(rows(call(head), channels), rows(call(head.forward), channels))


def test_a_head_has_the_weights_of_the_stock_one_and_survives_copies():
    cfg, inputs, _ = HEADS['softmax']
    head, stock = build(cfg), MODELS.build(cfg)
    assert list(head.state_dict()) == list(stock.state_dict())
    x = torch.randn(inputs.shape)
    want = head(x)[0]
    for other in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        torch.testing.assert_close(other(x)[0], want)
        other.score_calibration.prior.zero_()
        torch.testing.assert_close(head(x)[0], want)  # nothing is shared


def test_classes_are_found_by_name_whatever_their_order():
    given = build(HEADS['softmax'][0], dict(FRACTAL, classes=['plum', 'date', 'fig'])).score_calibration
    torch.testing.assert_close(given.prior, FRACAL(STATS).prior[[2, 0, 1]])
    later = FRACAL(STATS).to('cpu')
    later.classes = ('plum', 'date', 'fig')
    torch.testing.assert_close(later.prior, given.prior)


def test_other_numbers_of_classes_wait_for_names():
    head = MODELS.build(dict(type='BBoxHead', num_classes=2, in_channels=2, roi_feat_size=1)).eval()
    calibrate_scores(head, IIF(STATS))
    with pytest.raises(CalibrationError) as error:
        head(torch.zeros(1, 2))
    assert error.value.code == 'class-count'
    head.score_calibration.classes = ['plum', 'fig']
    assert head(torch.zeros(1, 2))[0].shape == (1, 3)
    with pytest.raises(CalibrationError) as error:
        calibrate_scores(head, IIF(STATS, classes=['plum']))
    assert error.value.code == 'class-count'


def test_another_calibration_replaces_the_first():
    head = calibrate_scores(build(HEADS['softmax'][0]), IIF(STATS))
    x = torch.randn(4, 2, 2, 2)
    torch.testing.assert_close(
        head(x)[0] - head.forward(x)[0], torch.cat([IIF(STATS).prior, torch.zeros(1)]).expand(4, 4)
    )


TOOD = dict(type='TOODHead', **DENSE, **NO_NORM)


class OwnLoss(nn.Module):
    custom_cls_channels = custom_activation = custom_accuracy = True

    def get_cls_channels(self, num_classes):
        return num_classes


def own_loss(head):
    head.loss_cls = OwnLoss()
    return head


@pytest.mark.parametrize(
    'code, model',
    [
        ('no-classifier', lambda: nn.Sequential(nn.Linear(2, 3))),
        ('no-classifier', lambda: MODELS.build(dict(type='RPNHead', in_channels=4)) and nn.Sequential()),
        ('no-logits', lambda: MODELS.build(dict(TOOD, anchor_generator=ONE_ANCHOR))),
        ('unknown-link', lambda: own_loss(MODELS.build(HEADS['softmax'][0]))),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_calibrated_is_refused(code, model):
    with pytest.raises(CalibrationError) as error:
        calibrate_scores(model(), FRACAL(STATS))
    assert error.value.code == code and '\n' not in str(error.value)


def test_a_map_of_other_channels_is_refused():
    head = build(HEADS['RetinaNet'][0])
    head.retina_cls = nn.Conv2d(4, 8 * C, 1)  # for eight of nine anchors
    with pytest.raises(CalibrationError) as error:
        head(drawn(MAPS))
    assert error.value.code == 'unknown-layout'


def test_the_rpn_is_not_calibrated():
    model = nn.Module()
    model.rpn_head = MODELS.build(dict(type='RPNHead', in_channels=4))
    model.bbox_head = MODELS.build(dict(type='BBoxHead', num_classes=1, in_channels=2, roi_feat_size=1))
    calibrate_scores(model, IIF(dict(image_count=[3], n_images=9)))
    assert not hasattr(model.rpn_head, 'score_calibration') and hasattr(model.bbox_head, 'score_calibration')


@pytest.mark.parametrize(
    'code, change',
    [
        ('invalid-module', dict(module=None)),
        ('invalid-module', dict(module=dict(depth=50))),
        ('invalid-calibration', dict(calibration=None)),
        ('invalid-calibration', dict(calibration='FRACAL')),
        ('missing-file', dict(calibration=dict(FRACTAL, stats='no/such/file.json'))),
        ('invalid-stats', dict(calibration=dict(FRACTAL, stats=[0.5, 0.1]))),
        ('invalid-stats', dict(calibration=dict(FRACTAL, stats=dict(counts=[1])))),
        ('class-without-frequency', dict(calibration=dict(FRACTAL, classes=['date', 'kiwi', 'fig']))),
    ],
)
def test_an_invalid_config_is_refused_in_one_line(code, change):
    cfg = dict(type='CalibrateScores', module=dict(HEADS['softmax'][0]), calibration=FRACTAL)
    with pytest.raises(CalibrationError) as error:
        MODELS.build(ConfigDict({**cfg, **change}))
    assert error.value.code == code and '\n' not in str(error.value)


def test_the_config_of_the_page_is_calibrated(tmp_path):
    page = (ROOT / 'docs/calibration.md').read_text()
    (code,) = re.findall(r'^```python\n(_base_ = .*?)^```$', page, re.M | re.S)
    (tmp_path / 'config.py').write_text(code)
    cfg = Config.fromfile(tmp_path / 'config.py')
    cfg.model.calibration.stats = dict(image_count=[5] * 48, fractal_dimension=[1.5] * 48)
    cfg.model.backbone = dict(type='ResNet', depth=18)  # builds sooner
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert type(model).__name__ == 'MaskRCNN' and isinstance(model.roi_head.bbox_head.score_calibration, FRACAL)


def test_a_calibration_that_defines_nothing_says_so():
    class Empty(Calibration):
        pass

    class WithoutForward(Calibration):
        def shifts(self, statistics):
            return {}

    with pytest.raises(NotImplementedError, match='^Empty does not define shifts$'):
        Empty(STATS)
    with pytest.raises(NotImplementedError, match='^WithoutForward does not define forward$'):
        WithoutForward(STATS)(torch.zeros(1, C), None, Channels())

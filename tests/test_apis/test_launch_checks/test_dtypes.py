import pytest
from helpers.paths import ROOT
from mmengine.config import Config

from apa_mmdet.apis.launch_checks.dtypes import check_dtypes
from apa_mmdet.apis.launch_checks.launch import Launch
from apa_mmdet.apis.launch_checks.validate_launch import check_launch


def found(model, tool='train.py', **wrapper):
    findings = check_launch(Launch(tool, Config(dict(model=model, optim_wrapper=wrapper))), [check_dtypes])
    return [(finding.code, finding.ids) for finding in findings]


BFLOAT16 = dict(type='AmpOptimWrapper', dtype='bfloat16')
MASK_RCNN = Config.fromfile(ROOT / 'configs/tiny_lvis/mask_rcnn_se_r18_apa.py').model.to_dict()


@pytest.mark.parametrize(
    'model',
    [
        MASK_RCNN,
        Config.fromfile(ROOT / 'configs/any_detector/dino_r50_aglu.py').model.to_dict(),
        dict(type='RetinaNet', bbox_head=dict(loss_cls=dict(type='mmdet.FocalLoss'))),
        dict(type='YOLOV3', backbone=dict(dcn=dict(type='DCNv2'))),
    ],
    ids=['RoIAlign', 'deformable attention', 'focal loss', 'deformable convolution'],
)
def test_bfloat16_by_the_stock_wrapper_is_refused_where_an_operator_lacks_it(model):
    assert found(model, **BFLOAT16) == [('bfloat16-operators', ('optim_wrapper',))]


def test_others_are_not():
    assert not found(MASK_RCNN, **dict(BFLOAT16, type='MixedPrecisionOptimWrapper'))
    assert not found(MASK_RCNN, type='AmpOptimWrapper', dtype='float16')
    assert not found(MASK_RCNN, type='AmpOptimWrapper')
    assert not found(MASK_RCNN, type='OptimWrapper')
    assert not found(MASK_RCNN, 'test.py', **BFLOAT16)
    assert not found(dict(type='DETR', bbox_head=dict(loss_cls=dict(type='CrossEntropyLoss'))), **BFLOAT16)

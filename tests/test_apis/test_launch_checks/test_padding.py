import pytest
from helpers.paths import ROOT
from mmengine.config import Config

from apa_mmdet.apis.launch_checks.launch import Launch
from apa_mmdet.apis.launch_checks.padding import check_padding
from apa_mmdet.apis.launch_checks.validate_launch import check_launch


def found(tool='train.py', train=2, val=1, test=1, **model):
    sizes = dict(train=train, val=val, test=test)
    loaders = {f'{split}_dataloader': dict(batch_size=size) for split, size in sizes.items()}
    findings = check_launch(Launch(tool, Config(dict(model=model, **loaders))), [check_padding])
    return [(finding.code, finding.ids) for finding in findings]


SE, STOCK = dict(type='SEResNet', depth=18), dict(type='DetDataPreprocessor')


@pytest.mark.parametrize('backbone', [SE, dict(type='mmdet.SEResNeXt', depth=50), dict(SE, se_cfg=dict(type='CBAM'))])
def test_attention_behind_a_stock_preprocessor_is_named_with_the_loaders(backbone):
    assert found(backbone=backbone, data_preprocessor=STOCK) == [('pooled-padding', ('train_dataloader',))]
    assert found('test.py', test=4, backbone=backbone) == [('pooled-padding', ('test_dataloader',))]
    assert found(train=1, val=3, detector=dict(backbone=backbone)) == [('pooled-padding', ('val_dataloader',))]


def test_meta_acon_in_another_backbone_is_named():
    swapped = dict(type='SwapActivations', module=dict(type='ResNet'), swap=dict(ReLU=dict(type='MetaAconC')))
    for preprocessor in (STOCK, dict(type='PaddingAwareDetDataPreprocessor')):  # that backbone does not ask
        assert found(backbone=swapped, data_preprocessor=preprocessor) == [('pooled-padding', ('train_dataloader',))]


@pytest.mark.parametrize(
    'model',
    [
        dict(backbone=SE, data_preprocessor=dict(type='PaddingAwareDetDataPreprocessor')),
        dict(
            backbone=SE,
            data_preprocessor=dict(
                type='MultiBranchDataPreprocessor', data_preprocessor=dict(type='PaddingAwareDetDataPreprocessor')
            ),
        ),
        dict(backbone=dict(SE, se_cfg=None)),
        dict(backbone=dict(type='mmdet.SwapActivations', module=dict(type='SEResNet'), se_cfg=None)),
        dict(backbone=dict(type='ResNet')),
        dict(backbone=dict(type='nowhere.SEResNet')),
        dict(backbone=[dict(), None, 3]),
    ],
    ids=str,
)
def test_others_are_not(model):
    assert not found(val=2, test=2, **model) and not found('test.py', test=2, **model)


def test_configs_here_have_no_finding():
    for path in (
        'lvis/mask_rcnn_se_r50_apa.py',
        'v3det/cascade_rcnn_se_r50_apa_v3det.py',
        'custom_dataset/mask_rcnn_se_r18_apa_custom.py',
    ):
        cfg = Config.fromfile(ROOT / 'configs' / path)
        cfg.val_dataloader.batch_size = 4
        findings = check_launch(Launch('train.py', cfg), [check_padding])
        assert not findings and cfg.model.rpn_head.type == 'PaddingAwareRPNHead'
        assert cfg.model.data_preprocessor.get('pool_padding_in_training', False) == path.startswith(('lvis', 'v3det'))

"""Parameters and multiply-adds, counted on an image as the detector takes it."""

from mmengine.config import Config

from apa_mmdet.apis.get_flops import get_flops


def test_images_have_the_channels_of_the_backbone():
    backbone = dict(type='ResNet', depth=18, base_channels=8, stem_channels=8, in_channels=5, num_stages=1)
    backbone.update(strides=(1,), dilations=(1,), out_indices=(0,))
    model = dict(
        type='RetinaNet',
        data_preprocessor=dict(type='DetDataPreprocessor'),
        backbone=backbone,
        neck=dict(type='FPN', in_channels=[8], out_channels=8, num_outs=5),
        bbox_head=dict(type='RetinaHead', num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1),
    )
    assert get_flops(Config(dict(model=model)), (64, 64)).flops > 7 * 7 * 5 * 8 * 32 * 32  # of the stem alone

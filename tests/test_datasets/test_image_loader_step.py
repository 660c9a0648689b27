import pytest
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmdet.registry import TRANSFORMS

from apa_mmdet.datasets.image_loader_step import image_loader_step


@TRANSFORMS.register_module()
class TiffReader(LoadImageFromFile):
    """A loader of the user's."""


@TRANSFORMS.register_module()
class LoadImageBands(BaseTransform):
    """One of another base."""

    def transform(self, results):
        return results


class Denoise(LoadImageBands):
    __module__ = 'own.LoadImageTools'


@pytest.mark.parametrize(
    'loader',
    ['LoadImageFromFile', 'mmdet.LoadImageFromNDArray', 'TiffReader', TiffReader, 'LoadImageBands', 'LoadImageX'],
)
def test_the_transform_that_loads_the_image_is_found_by_its_class(loader):
    step = dict(type=loader)
    pipeline = [dict(type=Denoise), dict(type='LoadAnnotations'), step, dict(type='LoadImageFromFile')]
    assert image_loader_step(pipeline) is step


def test_a_pipeline_that_loads_no_image():
    assert image_loader_step([dict(type=Denoise), dict(type='Resize'), dict(type='unknown')]) is None

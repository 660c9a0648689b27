import re

import pytest
from helpers.paths import ROOT
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmdet.registry import TRANSFORMS

from apa_mmdet.utils.config import BadConfig, image_loader_step


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


def test_the_docstring_lists_every_code():
    sources = [path.read_text() for path in (ROOT / 'apa_mmdet').rglob('*.py')]
    used = {code for source in sources for code in re.findall(r"BadConfig\(\s*'([a-z-]+)'", source)}
    assert used == set(re.findall('``([a-z-]+)``', BadConfig.__doc__)) and len(used) > 10

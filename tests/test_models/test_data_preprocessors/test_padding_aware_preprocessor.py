import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample

from apa_mmdet.models.data_preprocessors import PaddingAwareDetDataPreprocessor
from apa_mmdet.structures.valid_region import ATTRIBUTE


def data(*shapes):
    samples = [DetDataSample(metainfo=dict(img_shape=shape)) for shape in shapes]
    return dict(inputs=[torch.full((3, *shape), 7, dtype=torch.uint8) for shape in shapes], data_samples=samples)


def sizes(inputs):
    """Height and width of the part that is marked, of each image."""
    marked = getattr(inputs, ATTRIBUTE)[:, 0]
    heights, widths = marked.any(2).sum(1), marked.any(1).sum(1)
    assert torch.equal(marked.sum((1, 2)), heights * widths), 'a rectangle'
    return list(zip(heights.tolist(), widths.tolist()))


@pytest.mark.parametrize('training', [False, True])
def test_marks_the_part_that_each_image_would_have_alone(training):
    preprocessor, stock = (
        PaddingAwareDetDataPreprocessor(pad_size_divisor=4),
        MODELS.build(dict(type='DetDataPreprocessor', pad_size_divisor=4)),
    )
    got, want = (p(data((10, 17), (21, 8)), training) for p in (preprocessor, stock))
    assert torch.equal(got['inputs'], want['inputs']) and got['inputs'].shape == (2, 3, 24, 20)
    assert sizes(got['inputs']) == [(12, 20), (24, 8)] == [sample.pad_shape for sample in got['data_samples']]
    assert not hasattr(want['inputs'], ATTRIBUTE)


@pytest.mark.parametrize('shapes', [[(10, 17)], [(10, 17), (12, 20)]])
def test_images_that_fill_the_batch_are_not_marked(shapes):
    preprocessor = PaddingAwareDetDataPreprocessor(pad_size_divisor=4)
    assert not hasattr(preprocessor(data(*shapes))['inputs'], ATTRIBUTE)


def test_training_can_pool_over_padding_as_published():
    preprocessor = PaddingAwareDetDataPreprocessor(pool_padding_in_training=True)
    assert not hasattr(preprocessor(data((4, 8), (8, 4)), True)['inputs'], ATTRIBUTE)
    assert sizes(preprocessor(data((4, 8), (8, 4)), False)['inputs']) == [(4, 8), (8, 4)]


@pytest.mark.parametrize('samples', [None, []])
def test_images_without_samples_are_marked(samples):
    inputs = dict(data((4, 8), (8, 4)), data_samples=samples)
    assert sizes(PaddingAwareDetDataPreprocessor()(inputs)['inputs']) == [(4, 8), (8, 4)]


def test_a_batch_padded_to_a_fixed_size_belongs_to_its_images():
    augment = dict(type='BatchFixedSizePad', size=(16, 16))
    preprocessor = PaddingAwareDetDataPreprocessor(batch_augments=[augment])
    assert not hasattr(preprocessor(data((4, 8), (8, 4)), True)['inputs'], ATTRIBUTE), 'alone it has the same padding'


def test_each_branch_of_semi_supervised_training_is_marked():
    preprocessor = MODELS.build(
        dict(type='MultiBranchDataPreprocessor', data_preprocessor=dict(type='PaddingAwareDetDataPreprocessor'))
    )
    branches = dict(sup=data((4, 8), (8, 4)), unsup_student=data((6, 6), (4, 12)))
    batch = {key: {name: branch[key] for name, branch in branches.items()} for key in ('inputs', 'data_samples')}
    inputs = preprocessor(batch, True)['inputs']
    assert sizes(inputs['sup']) == [(4, 8), (8, 4)] and sizes(inputs['unsup_student']) == [(6, 6), (4, 12)]

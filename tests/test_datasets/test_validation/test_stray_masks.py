"""Masks that do not belong to their boxes."""

import json

import pytest
from helpers.annotations import codes
from pycocotools import mask as rle

from apa_mmdet.datasets.annotations.reading import read_annotations
from apa_mmdet.datasets.validation.annotations import check_annotations
from apa_mmdet.datasets.validation.config_datasets import AnnotationUsage
from apa_mmdet.structures.rle import run_lengths
from apa_mmdet.utils.findings import Findings

WIDTH, HEIGHT = 80, 64
TRAINING = AnnotationUsage('required')


def drawn(polygons):
    """COCO's text."""
    return rle.merge(rle.frPyObjects(polygons, HEIGHT, WIDTH))['counts'].decode()


def code_of(counts):
    return dict(size=[HEIGHT, WIDTH], counts=counts)


FORMS = dict(
    polygons=lambda polygons: polygons,
    long=lambda polygons: [polygon * 100 for polygon in polygons],
    text=lambda polygons: code_of(drawn(polygons)),
    runs=lambda polygons: code_of(run_lengths(drawn(polygons)).tolist()),
)
CHANGES = dict(
    shares=lambda x, y: (x / WIDTH, y / HEIGHT),
    half=lambda x, y: (x / 2, y / 2),
    double=lambda x, y: (x * 2, y * 2),
    swapped=lambda x, y: (y, x),
)


def rectangle(x, y, width, height):
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def content_of(masks, box=(45, 8, 15, 10)):
    images = [dict(id=i, file_name=f'{i}.png', width=WIDTH, height=HEIGHT) for i in range(1, len(masks) + 1)]
    area = box[2] * box[3]
    return dict(
        images=images,
        annotations=[
            dict(id=i, image_id=i, category_id=1, bbox=list(box), area=area, iscrowd=0, segmentation=mask)
            for i, mask in enumerate(masks, 1)
        ],
        categories=[dict(id=1, name='date')],
    )


def findings_about(content, tmp_path, usage=TRAINING):
    """Of the content, in memory and in a file."""
    (tmp_path / 'a.json').write_text(json.dumps(content))
    of_content, of_file = Findings('train'), Findings('train')
    check_annotations(content, of_content, None, usage)
    check_annotations(read_annotations(tmp_path / 'a.json'), of_file, None, usage)
    assert of_content == of_file
    return of_file


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('change', CHANGES)
@pytest.mark.parametrize('wrong, code', [(2, 'mask-outside-box'), (3, 'masks-misread')])
def test_masks_of_another_scale_than_their_boxes(form, change, wrong, code, tmp_path):
    right = rectangle(45, 8, 15, 10)
    moved = [value for point in zip(right[::2], right[1::2]) for value in CHANGES[change](*point)]
    content = content_of([FORMS[form]([moved])] * wrong + [FORMS[form]([right])] * (20 - wrong))
    (finding,) = findings_about(content, tmp_path)
    assert codes([finding]) == [(code, tuple(range(1, wrong + 1)))]
    assert f': {wrong} of 20, e.g. 1 (image 1), 2 (image 2)' in finding.message


@pytest.mark.parametrize(
    'polygons',
    [
        [rectangle(44.5, 7.5, 16, 11)],  # rounded
        [rectangle(50, 10, 3, 3)],  # a part that is not hidden
        [rectangle(40, 2, 30, 30)],
        [rectangle(45, 8, 2, 2), rectangle(58, 16, 2, 2)],
        [rectangle(30, 0, 2, 2), rectangle(45, 8, 15, 10)],
    ],
)
@pytest.mark.parametrize('form', FORMS)
def test_masks_that_overlap_their_boxes(polygons, form, tmp_path):
    assert findings_about(content_of([FORMS[form](polygons)] * 3), tmp_path) == []


def test_only_masks_that_are_read_are_compared(tmp_path):
    content = content_of([[rectangle(1, 1, 5, 5)], [rectangle(45, 8, 15, 10)]])
    assert findings_about(content, tmp_path, AnnotationUsage('unused')) == []
    content['annotations'][0]['ignore'] = 1
    assert codes(findings_about(content, tmp_path)) == [('skipped-instance', (1,))]
    evaluated = AnnotationUsage('required', evaluated=True, evaluates_masks=True)
    assert ('masks-misread', (1,)) in codes(findings_about(content, tmp_path, evaluated))


def test_any_mask_belongs_to_a_box_without_area(tmp_path):
    evaluated = AnnotationUsage('required', evaluated=True, evaluates_masks=True)
    found = codes(findings_about(content_of([[rectangle(1, 1, 5, 5)]], box=(0, 0, 0, 0)), tmp_path, evaluated))
    assert [code for code, _ in found if 'mask' in code] == []


def test_a_line_is_a_pixel_wide(tmp_path):
    assert findings_about(content_of([[[45, 8, 60, 8, 45, 8]]]), tmp_path) == []


def test_a_mask_without_a_pixel_belongs_to_no_box_unless_instances_may_lack_theirs(tmp_path):
    content, stray = content_of([code_of([WIDTH * HEIGHT])]), [('masks-misread', (1,))]
    assert codes(findings_about(content, tmp_path)) == stray
    assert codes(findings_about(content, tmp_path, AnnotationUsage('optional', plain_mask_head='FCNMaskHead'))) == stray
    assert findings_about(content, tmp_path, AnnotationUsage('optional')) == []

"""msgspec and json find the same in a file; which of them reads it."""

import json

import msgspec
import numpy as np
import pytest
from helpers.annotations import TRAIN, first, repeat_last

from apa_mmdet.datasets.annotations.columns import FileAnnotations
from apa_mmdet.datasets.annotations.reading import read_content, read_json
from apa_mmdet.datasets.annotations.segmentations import plain
from apa_mmdet.datasets.validation.annotations import check_annotations
from apa_mmdet.datasets.validation.config_datasets import AnnotationUsage
from apa_mmdet.utils.findings import Findings, ValidationError

USAGES = (
    AnnotationUsage('required'),
    AnnotationUsage('unused', evaluated=True, evaluated_as_coco=True),
    AnnotationUsage('required', evaluated=True, evaluated_as_lvis=True, evaluates_masks=True),
)


def outcomes(read, path):
    """The findings about a file for each usage, or the code of the error that reading it raises."""
    found = []
    for usage in USAGES:
        findings = Findings('train')
        try:
            content = check_annotations(read(path), findings, None, usage)
        except ValidationError as error:
            return error.code, str(error)
        found.append((list(findings), content.counts, content.rare, content.labeled.tolist()))
    return found


@pytest.fixture
def write(tmp_path):
    def _write(text):
        path = tmp_path / 'a.json'
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return _write


def annotate(**values):
    return first('annotations', **values)


def all_annotations(change):
    return lambda content: [change(annotation) for annotation in content['annotations']]


@pytest.mark.parametrize(
    'change, irregular',
    [
        (lambda c: None, 0),
        (annotate(attributes=dict(occluded=True, z=None)), 0),  # as exporters write
        (annotate(**{'"': 1}), None),
        (annotate(note='"quoted" {'), 0),
        (lambda c: c['annotations'][30].update(score=0.5, note='late'), 0),
        (all_annotations(lambda a: a.update(id=f'a{a["id"]}')), 0),
        (all_annotations(lambda a: a.update(image_id=str(a['image_id']))), 0),
        (annotate(id='é"'), None),
        (annotate(id=2**63), 0),
        (annotate(id=-(2**70)), 0),
        (annotate(id=1.0), 1),
        (annotate(id=True), 1),
        (annotate(id=[1]), 1),
        (annotate(image_id=None), 1),
        (annotate(bbox=[1, 1, 5]), 1),
        (annotate(bbox=[1, 1, 5, 10**13]), 1),
        (annotate(bbox=[1, 1, 5, True]), 1),
        (annotate(area=10**400), 1),
        (annotate(area=1e308), 1),
        (annotate(area='5'), 1),
        (annotate(area=-0.0, iscrowd=None, ignore=None), 0),
        (annotate(iscrowd='0'), None),
        (annotate(iscrowd=1.0, ignore=True), 0),
        (annotate(segmentation=None), 0),
        (annotate(segmentation='text'), 0),
        (annotate(segmentation=[[1, 1, 9, 1, 9, 9], [1, 1, 9, 1, 9, '9']]), 0),
        (annotate(segmentation=[[1, 1, 9, 1, 9, 10**400]]), 0),
        (annotate(segmentation=[[1, 1, 9, 1, 9, 1e5]]), 0),
        (annotate(segmentation=[[1, 1, 9, 1, 9, 2e6]]), 0),
        (annotate(segmentation=[[1, 1, 9, 1, 9, 9], [1] * 502]), 0),
        (annotate(segmentation=[[-9e3, 0, 9e3, 0, 0, 9e3] * 400]), 0),
        (annotate(segmentation=dict(size=[64, 80], counts=[20, 5100])), 0),
        (annotate(segmentation=dict(size=[64, 80], counts='PPP\\\\0')), 0),
        (annotate(segmentation=dict(size=['64', 80], counts=[5120])), 0),
        (annotate(segmentation=dict(size=[64, 80], counts=['5120'])), 0),
        (annotate(segmentation=dict(size=[64, 80])), 0),
        (annotate(segmentation=dict(size=[64, 80], counts=[5120], note=dict(a='b'))), 0),
        (lambda c: c['annotations'].insert(3, 7), 1),
        (lambda c: (c['annotations'].insert(3, None), annotate(id=None)(c), c['annotations'].insert(0, [])), 3),
        (lambda c: c['annotations'][30].update(id=None, unknown=dict(a=[dict(b='c')])), 1),
        (repeat_last('annotations'), 0),
        (annotate(image_id=99, category_id=0), 0),
        (lambda c: c.update(info=dict(year=2026, url='"')), 0),
        (lambda c: c.update(annotations=[]), None),
        (lambda c: c.update(annotations=None), None),
        (lambda c: c.update(annotations=dict(a=1)), None),
        (lambda c: c.pop('annotations'), None),
        (annotate(area=float('nan')), None),
        (annotate(segmentation=[[1, 1, 9, 1, 9, float('inf')]]), None),
        (lambda c: first('images', file_name='\ud800')(c), None),
        (annotate(note='\udc00'), None),
        (annotate(note='苹果'), 0),
    ],
    ids=range(52),
)
def test_both_decoders_find_the_same(train, write, change, irregular):
    train['annotations'] = train['annotations'][:31]
    change(train)
    path = write(json.dumps(train, ensure_ascii='\\ud' in json.dumps(train)))
    annotations = read_content(path).get('annotations')
    decoded = len(annotations.irregular) if isinstance(annotations, FileAnnotations) else None
    assert decoded == irregular
    assert outcomes(read_content, path) == outcomes(read_json, path)


RECORD = '"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81'


@pytest.mark.parametrize(
    'record',
    [
        f'{RECORD}, "area": 81',
        f'{RECORD}, "segmentation": [], "segmentation": [[1, 1, 9, 1, 9, 9]]',
        f'{RECORD}, "segmentation": {{"size": [1, 1], "size": [40, 50], "counts": [5, 1995]}}',
        f'{RECORD}, "segmentation": {{"size": [40, 50], "counts": [1], "counts": "d"}}',
        f'{RECORD}, "segmentation": {{"size": [40, 50], "counts": "d", "counts": [5, 1995]}}',
        f'{RECORD}, "segmentation": {{"size": {{"a": 1, "a": 2}}, "counts": [5, 1995]}}',
        f'{RECORD}, "extra": {{"a": 1, "a": 2}}',
        f'{RECORD}, "extra": [[{{"a": 1, "a": 2}}]]',
        f'{RECORD}, "iscrowd": {{"a": 1, "a": 2}}',
        f'{RECORD}, "extra": 1, "extra": 1',
        f'{RECORD}, "\\u0061rea": 81',
        '"id": 1, "bbox": {"a": 1, "a": 2}',
    ],
    ids=range(12),
)
def test_a_key_that_is_given_twice_is_found_wherever_it_is(write, record):
    path = write('{"images": [], "categories": [], "annotations": [{' + record + '}]}')
    for read in (read_content, read_json):
        with pytest.raises(ValidationError) as error:
            read(path)
        assert error.value.code == 'duplicate-key'


@pytest.mark.parametrize(
    'text, code',
    [
        ('{"annotations": [1], "annotations": [2]}', 'duplicate-key'),
        ('{"annotations": [{"note": "Käse"}]}'.encode('latin-1'), 'not-utf8'),
        ('{"annotations": [{"note": ' + '7' * 5000 + '}]}', 'not-json'),
        ('{"annotations": [{"segmentation": [[' + '7' * 4301 + ']]}]}', 'not-json'),
        ('{"annotations": [{"note": "a\tb"}]}', 'not-json'),
        ('{"annotations": [{"segmentation": [01]}], "images": []}', 'not-json'),
        ('{"annotations": [{}]} and more', 'not-json'),
        ('{"annotations": [{}]'.encode('utf-8-sig'), 'byte-order-mark'),
    ],
    ids=range(8),
)
def test_what_json_refuses_is_refused_also_where_it_is_not_decoded(write, text, code):
    with pytest.raises(ValidationError) as error:
        read_content(write(text))
    assert error.value.code == code


def test_numbers_and_texts_are_those_of_json(write):
    rng = np.random.default_rng(0)
    numbers = [*np.exp(rng.uniform(-30, 30, 500)).tolist(), *rng.uniform(0, 640, 500).round(2).tolist()]
    numbers += [0.1 + 0.2, 5e-324, 2**53 + 1, -0.0, 1e22, 123456789012345678901234567890]
    text = json.dumps(numbers)
    decoded = plain(msgspec.Raw(text.encode()))
    assert list(map(repr, decoded)) == list(map(repr, json.loads(text)))
    assert plain(msgspec.Raw(b'[1e400]')) == json.loads('[1e400]')


def test_iterating_gives_the_records_again(train, valid):
    assert list(read_content(valid[0] / TRAIN)['annotations']) == train['annotations']

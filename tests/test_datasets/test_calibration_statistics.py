"""Statistics of classes from each source, the cache beside annotations, and the tool that writes them."""

import errno
import json
import os
import runpy
import sys

import pytest
from helpers.paths import ROOT

from apa_mmdet.datasets import class_statistics
from apa_mmdet.datasets.calibration_statistics import load_calibration_statistics
from apa_mmdet.datasets.class_frequency import load_class_frequency
from apa_mmdet.utils.findings import ValidationError

CORNERS = [(0, 0), (80, 0), (0, 40), (80, 40)]  # of boxes of 20 x 10 in images of 100 x 50


def annotations(**changes):
    """Fig in the corners of two images, date in one of them, plum only as a crowd; a third image is empty."""
    boxes = [(1 + i % 2, 3, [*corner, 20, 10]) for i, corner in enumerate(CORNERS)]
    boxes += [(2, 5, [0, 0, 20, 10]), (2, 5, [1, 1, 20, 10]), (1, 9, [0, 0, 100, 50])]
    records = [
        dict(id=i + 1, image_id=image, category_id=category, bbox=box, area=200, iscrowd=int(category == 9))
        for i, (image, category, box) in enumerate(boxes)
    ]
    names = {9: 'plum', 5: 'date', 3: 'fig'}
    content = dict(
        images=[dict(id=i, width=100, height=50, file_name=f'{i}.jpg') for i in (1, 2, 7)],
        annotations=records,
        categories=[dict(id=i, name=name) for i, name in names.items()],
    )
    return {**content, **changes}


@pytest.fixture
def write(tmp_path):
    def _write(content, name='train.json'):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding='utf-8')
        return path

    return _write


def test_annotations_are_counted_and_measured_without_crowds(write):
    found = load_calibration_statistics(write(annotations()))
    assert (found.n_images, found.names) == (3, ['plum', 'date', 'fig'])
    assert found.image_count == [0, 1, 2] and found.fractal_dimension == [1.0, 1.0, 2.0]


def test_classes_are_taken_by_name(write):
    found = load_calibration_statistics(write(annotations())).of(('fig', 'plum'))
    assert (found.names, found.image_count, found.fractal_dimension) == (['fig', 'plum'], [2, 0], [2.0, 1.0])
    assert found.n_images == 3
    with pytest.raises(ValidationError, match='kiwi') as error:
        found.of(['fig', 'kiwi'])
    assert error.value.code == 'class-without-frequency' and error.value.ids == ('kiwi',)


def test_a_second_reading_takes_the_cache_and_a_changed_file_is_measured_again(write, monkeypatch):
    path = write(annotations())
    first = load_calibration_statistics(path)
    cache = path.with_name('train.class_statistics.json')
    assert load_calibration_statistics(cache) == first._replace(origin=str(cache))  # is itself a source
    with monkeypatch.context() as patch:
        patch.setattr(class_statistics, 'measure_annotations', None)
        assert load_calibration_statistics(path) == first
    write(annotations(annotations=annotations()['annotations'][4:]))
    assert load_calibration_statistics(path).image_count == [0, 1, 0]
    for damage in ('', '[]', '{"version": 1', json.dumps(dict(json.loads(cache.read_text()), categories=[]))):
        cache.write_text(damage)
        assert load_calibration_statistics(path).image_count == [0, 1, 0]


def test_a_folder_that_cannot_be_written_is_no_error(write, monkeypatch):
    path = write(annotations())

    def full(*_):
        raise OSError(errno.EROFS, 'Read-only file system')

    monkeypatch.setattr(class_statistics, 'atomic_write', full)
    assert load_calibration_statistics(path).image_count == [0, 1, 2]
    assert os.listdir(path.parent) == ['train.json']


def test_lists_in_a_config():
    found = load_calibration_statistics(dict(image_count=[5, 3]))
    assert (found.image_count, found.n_images, found.fractal_dimension, found.names) == ([5, 3], 8, None, None)
    assert found.of(['any', 'names']) == found  # there are none to look for
    found = load_calibration_statistics(
        dict(image_count=(5, 3), n_images=10, fractal_dimension=(1.5, 1), names=('a', 'b'))
    )
    assert found.n_images == 10 and found.fractal_dimension == [1.5, 1.0] and found.names == ['a', 'b']


def test_a_list_of_paths_and_labels(write):
    path = write('n01/a b.jpg 2\nn01/b.jpg 0\nn02/c.jpg  2\n', 'ImageNet_LT_train.txt')
    found = load_calibration_statistics(path)
    assert found.image_count == [1, 0, 2] and found.n_images == 3
    with pytest.raises(ValidationError) as error:
        load_calibration_statistics(write('a.jpg 0\nb.jpg\n', 'labels.txt'))
    assert error.value.code == 'invalid-list-line' and error.value.ids == (2,)


def test_the_statistics_of_lvis_come_with_the_configs():
    path = ROOT / 'configs/_base_/datasets/lvis_v1_class_frequency.json'
    found = load_calibration_statistics(path)
    assert found.n_images == 100170 and len(found.image_count) == len(found.fractal_dimension) == 1203
    assert [count / 99388 for count in found.image_count] == load_class_frequency(path)


RECORDS = annotations()['annotations']


@pytest.mark.parametrize(
    'code, content',
    [
        ('not-class-statistics', [0.5, 0.1]),
        ('not-frequencies', 'true'),
        ('invalid-images-annotated', dict(categories=[dict(id=1, name='a', image_count=1)])),
        ('invalid-images-annotated', dict(n_images=0, categories=[dict(id=1, name='a', image_count=0)])),
        ('invalid-field', dict(n_images=9, categories=[dict(id=1, name='a', image_count=-1)])),
        ('invalid-frequency', dict(n_images=9, categories=[dict(id=1, name='a', image_count=10)])),
        ('invalid-field', dict(n_images=9, categories=[dict(id=1, image_count=1, fractal_dimension=2.5)])),
        (
            'invalid-field',
            dict(n_images=9, categories=[dict(id=i, image_count=1, **p) for i, p in enumerate([{}, dict(fractal_dimension=1)])]),
        ),
        ('missing-records', annotations(images=[])),
        ('unknown-category', annotations(categories=annotations()['categories'][:2])),
        ('invalid-field', annotations(annotations=[dict(RECORDS[0], bbox=[1, 2, 3])])),
        ('empty-file', ''),
        ('truncated-file', '{"images": ['),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_in_one_line(code, content, write):
    path = write(content)
    with pytest.raises(ValidationError) as error:
        load_calibration_statistics(path)
    assert error.value.code == code and str(path) in str(error.value) and '\n' not in str(error.value)
    assert os.listdir(path.parent) == ['train.json']


def test_wrong_lists_are_refused():
    with pytest.raises(ValidationError) as error:
        load_calibration_statistics(dict(image_count=[1, 2], fractal_dimension=[1.0]))
    assert error.value.code == 'unequal-statistics'
    for counts in ([1, -2], [1, 'many'], [1, None], [1, 1e13]):
        with pytest.raises(ValidationError, match='image_count') as error:
            load_calibration_statistics(dict(image_count=counts))
        assert error.value.code == 'invalid-field'


@pytest.mark.parametrize('stats', [None, 5, [1, 2], dict(counts=[1]), dict(image_count=[1], images=2)])
def test_other_types_are_refused(stats):
    with pytest.raises(TypeError):
        load_calibration_statistics(stats)


def run(monkeypatch, *arguments):
    """Runs tools/class_statistics.py; returns its exit status."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, 'argv', ['class_statistics.py', *map(str, arguments)])
        try:
            runpy.run_path(str(ROOT / 'tools/class_statistics.py'), run_name='__main__')
        except SystemExit as end:
            return end.code


def test_the_tool_writes_what_is_measured(write, monkeypatch, capsys):
    path = write(annotations())
    out = path.with_name('statistics.json')
    assert not run(monkeypatch, path, out)
    assert '6 instances of 3 classes in 2 of 3 images' in capsys.readouterr().out
    assert load_calibration_statistics(out) == load_calibration_statistics(path)._replace(origin=str(out))
    assert load_class_frequency(out) == [0.0, 0.5, 1.0]  # of the annotated images: DropLoss reads it too
    assert 'missing.json' in run(monkeypatch, 'missing.json', path.with_name('other.json'))

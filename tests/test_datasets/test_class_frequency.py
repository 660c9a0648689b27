"""Class frequencies from each type of file, and the counts cached beside a large one."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from helpers.paths import ROOT
from helpers.recordings import load
from mmdet.datasets import LVISV1Dataset
from mmengine.logging import MMLogger

from apa_mmdet.datasets import class_statistics, load_class_frequency
from apa_mmdet.datasets.annotations.class_measurement import count_categories
from apa_mmdet.datasets.annotations.reading import read_content
from apa_mmdet.datasets.calibration_statistics import load_calibration_statistics
from apa_mmdet.utils.findings import ValidationError

SHIPPED = ROOT / 'configs/_base_/datasets/lvis_v1_class_frequency.json'
WANT = [1 / 4, 3 / 4]  # categories 7 and 2, as mmdet numbers the labels; four of the five images are annotated


def annotation(number, image, category, **fields):
    return dict(id=number, image_id=image, category_id=category, bbox=[0, 0, 5, 4], area=20, **fields)


def lvis(**changes):
    pairs = [(1, 2), (1, 2), (2, 2), (3, 2), (9, 7)]
    content = dict(
        images=[dict(id=i, width=10, height=8) for i in (1, 2, 3, 5, 9)],
        annotations=[annotation(i, *pair) for i, pair in enumerate(pairs, 1)],
        categories=[dict(id=7, name='fig', image_count=1), dict(id=2, name='date', image_count=3)],
    )
    return {key: value for key, value in {**content, **changes}.items() if value is not None}


MORE = annotation(6, 5, 2)  # the fifth image shows category 2, too


@pytest.fixture
def write(tmp_path):
    def _write(content, name='train.json'):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return _write


def test_list(write):
    path = write([0.5, 0, 1])
    assert load_class_frequency(path) == load_class_frequency(str(path)) == [0.5, 0.0, 1.0]
    assert os.listdir(path.parent) == ['train.json']


def test_counts_are_in_the_order_of_the_file(write):
    path = write(dict(n_images_annotated=4, categories=lvis()['categories']))
    assert load_class_frequency(path) == WANT
    assert os.listdir(path.parent) == ['train.json']


def test_the_file_in_configs_holds_the_official_frequencies():
    assert load_class_frequency(SHIPPED) == pytest.approx(load('drop_loss.npz')['image_count_frequency'], rel=1e-6)
    content = json.loads(SHIPPED.read_text())
    assert content['n_images_annotated'] == 99388 and len(content['categories']) == 1203
    # LVIS calls a category rare up to 10 images, common up to 100
    assert all(
        c['frequency'] == 'rcf'[(c['image_count'] > 10) + (c['image_count'] > 100)] for c in content['categories']
    )


def test_annotation_file_counts_images_with_an_annotation(write):
    assert load_class_frequency(write(lvis())) == WANT


def test_image_counts_of_annotations_are_those_of_lvis(tiny_data, tmp_path):
    path = shutil.copy(tiny_data() / 'annotations/lvis_v1_train.json', tmp_path)
    content = json.loads(Path(path).read_text())
    annotated = len({a['image_id'] for a in content['annotations']})
    published = [c['image_count'] / annotated for c in content['categories']]
    assert load_class_frequency(path) == published


def test_image_counts_of_another_file_are_not_taken_for_those_of_the_annotations(write):
    categories = [dict(category, image_count=40) for category in lvis()['categories']]  # as after taking a part of LVIS
    assert load_class_frequency(write(lvis(categories=categories))) == WANT


def test_crowds_are_no_images_of_a_class_for_the_loss_calibration_and_groups(write):
    crowds = [annotation(i, i, 2, iscrowd=int(i > 1)) for i in (1, 2, 3)] + [annotation(4, 9, 2, iscrowd=1)]
    path = write(lvis(annotations=crowds))
    assert load_class_frequency(path) == [0, 1 / 4]  # of four annotated images
    assert load_calibration_statistics(path).image_count == [0, 1]
    assert count_categories(read_content(path), str(path)).images.tolist() == [0, 1]


def named(*names):
    """Categories 7 and 2 with names, behind a root category that no annotation has."""
    return lvis(categories=[dict(id=i, name=name) for i, name in zip((0, 7, 2), names)])


@pytest.mark.parametrize(
    'classes, want', [(['fig', 'date'], WANT), (['date', 'fig'], WANT[::-1]), (['date'], WANT[1:])]
)
def test_frequencies_are_found_by_name_also_in_the_cache(write, classes, want):
    path = write(named('food', 'fig', 'date'))
    cache = path.with_name('train.class_statistics.json')
    assert [load_class_frequency(p, classes) for p in (path, path, cache)] == [want] * 3
    assert load_class_frequency(path) == [0, *WANT]


def test_classes_that_share_a_name_are_taken_in_the_order_of_the_file(write):
    assert load_class_frequency(write(named('fig', 'date', 'date')), ['date', 'fig', 'date']) == [
        *WANT[:1],
        0,
        *WANT[1:],
    ]


def test_a_class_that_the_file_lacks_is_named(write):
    path = write(named('food', 'fig', 'date'))
    for _ in range(2):  # the second reads the cache
        with pytest.raises(ValidationError, match=r'train\.json lacks: 1 of 2, e\.g\. pear; ') as error:
            load_class_frequency(path, ['date', 'pear'])
        assert (error.value.code, error.value.ids) == ('class-without-frequency', ('pear',))


def test_the_class_that_lvis_spells_in_its_own_way_has_a_frequency():
    classes = LVISV1Dataset.METAINFO['classes']
    assert load_class_frequency(SHIPPED, classes) == load_class_frequency(SHIPPED)


def test_without_names_the_order_of_the_file_is_taken(write):
    counts = [dict(id=7, image_count=1), dict(id=2, image_count=3)]
    assert load_class_frequency(write(dict(n_images_annotated=4, categories=counts)), ['date', 'fig']) == WANT
    assert load_class_frequency(write([0.5, 1.0]), ['date', 'fig']) == [0.5, 1.0]


def test_a_cache_of_an_earlier_version_is_measured_again(write):
    path = write(lvis())
    load_class_frequency(path)
    cache = path.with_name('train.class_statistics.json')
    cache.write_text(json.dumps(dict(json.loads(cache.read_text()), version=1, n_images_annotated=9)))
    assert load_class_frequency(path) == WANT


def test_the_loss_and_calibration_measure_once(write, monkeypatch):
    path = write(lvis())
    load_class_frequency(path)
    assert sorted(os.listdir(path.parent)) == ['train.class_statistics.json', 'train.json']
    monkeypatch.setattr(class_statistics, 'read_content', lambda path: pytest.fail('the source was read again'))
    assert load_calibration_statistics(path).image_count == [1, 3]


def test_counts_that_earlier_versions_kept_are_read_where_they_are_named(write):
    kept = dict(n_images_annotated=4, categories=[dict(id=7, name='fig', image_count=2)])
    kept = write(dict(kept, version=2, source='train.json', source_size=9), 'train.class_frequency.json')
    assert load_class_frequency(kept, ['fig']) == [1 / 2]
    assert load_class_frequency(write(lvis()), ['fig']) == WANT[:1]  # beside the annotations it is not


def test_counts_are_cached_until_the_source_changes(write, monkeypatch):
    path = write(lvis())
    load_class_frequency(path)
    kept = path.with_name('train.class_statistics.json')
    assert load_class_frequency(kept) == WANT
    assert os.stat(kept).st_mode == os.stat(path).st_mode
    with monkeypatch.context() as context:
        context.setattr(class_statistics, 'read_content', lambda path: pytest.fail('the source was read again'))
        assert load_class_frequency(path) == WANT

    write(lvis(annotations=lvis()['annotations'] + [MORE]))
    assert load_class_frequency(path) == [1 / 5, 4 / 5]
    text = path.read_text().replace('"image_id": 1, "category_id": 2', '"image_id": 1, "category_id": 7')
    path.write_text(text)  # of the same size
    os.utime(path, ns=(0, 12345))
    assert load_class_frequency(path) == [2 / 5, 3 / 5]
    assert sorted(os.listdir(path.parent)) == ['train.class_statistics.json', 'train.json']


@pytest.mark.parametrize('rubbish', ['', '{', '[1]', '{"source": 3}', '{}'])
def test_a_damaged_cache_is_counted_again(write, rubbish):
    path = write(lvis())
    write(rubbish, 'train.class_statistics.json')
    assert load_class_frequency(path) == WANT
    assert load_class_frequency(path.with_name('train.class_statistics.json')) == WANT


@pytest.mark.parametrize('failing', ['pathlib.Path.open', 'os.replace'])
def test_a_read_only_folder_costs_a_line_in_the_log(write, monkeypatch, failing):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EROFS, 'read-only')

    lines, path = [], write(lvis())
    monkeypatch.setattr(failing, refuse)
    monkeypatch.setattr(MMLogger.get_current_instance(), 'warning', lines.append)
    assert load_class_frequency(path) == WANT
    assert len(lines) == 1 and 'cannot be written (' in lines[0] and 'read-only' in lines[0] and '\n' not in lines[0]
    assert os.listdir(path.parent) == ['train.json']


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'gone\.json: no such file of class frequencies.*DropLoss') as error:
        load_class_frequency(tmp_path / 'gone.json')
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
    'content, code, ids',
    [
        ('not json', 'not-json', ()),
        ('[' * 200_000, 'not-json', ()),
        ('3', 'not-frequencies', ()),
        ([0.1, 'x'], 'invalid-frequency', (1,)),
        ([0.1, None], 'invalid-frequency', (1,)),
        ([64, 364], 'invalid-frequency', (0,)),
        ({}, 'invalid-images-annotated', ()),
        (lvis(annotations=None), 'missing-records', ('annotations',)),
        (lvis(annotations=[]), 'missing-records', ('annotations',)),
        (lvis(annotations=[3]), 'not-an-object', ('number 0',)),
        (lvis(annotations=[dict(annotation(3, 1, 2), category_id=[1])]), 'invalid-field', (3,)),
        (lvis(annotations=[annotation(3, 4, 2)]), 'unknown-image', (3,)),
        (lvis(categories=None), 'missing-records', ('categories',)),
        (lvis(categories=['a']), 'not-an-object', ('number 0',)),
        (lvis(categories=[dict(id=[1])]), 'invalid-field', ([1],)),
        (lvis(categories=[dict(name='fig')]), 'invalid-field', ('number 0',)),
        (dict(n_images_annotated=4, categories=[dict(id=1, image_count='5')]), 'invalid-field', (1,)),
        (dict(n_images_annotated=4, categories=[dict(id=1, image_count=10**400)]), 'invalid-field', (1,)),
        (dict(n_images_annotated=4, categories=[dict(id=2, image_count=5)]), 'invalid-frequency', (0,)),
        (dict(n_images_annotated=4, categories=[dict(id=2)]), 'invalid-field', (2,)),
        (dict(n_images_annotated=0, categories=lvis()['categories']), 'invalid-images-annotated', ()),
        (dict(n_images_annotated=5), 'missing-records', ('categories',)),
    ],
    ids=range(22),
)
def test_invalid_content_is_named_in_one_line(write, content, code, ids):
    path = write(content)
    with pytest.raises(ValidationError) as error:
        load_class_frequency(path)
    assert (error.value.code, error.value.ids) == (code, ids)
    assert str(path) in str(error.value) and '\n' not in str(error.value) and len(str(error.value)) < 500


def test_counts_of_a_file_that_is_replaced_meanwhile_are_not_reused(write, monkeypatch):
    path, read = write(lvis()), class_statistics.read_content

    def read_and_replace(path):
        content = read(path)
        write(lvis(annotations=lvis()['annotations'] + [MORE]))
        return content

    with monkeypatch.context() as context:
        context.setattr(class_statistics, 'read_content', read_and_replace)
        assert load_class_frequency(path) == WANT
    assert load_class_frequency(path) == [1 / 5, 4 / 5]


@pytest.mark.parametrize(
    'harm',
    [
        dict(n_images_annotated=0),
        dict(categories=[dict(id=1, image_count='a')]),
        dict(categories=3),
        dict(categories=[dict(id=1, image_count=5)]),
    ],
)
def test_a_cache_with_wrong_counts_is_counted_again(write, harm):
    path = write(lvis())
    load_class_frequency(path)
    cache = path.with_name('train.class_statistics.json')
    valid = json.loads(cache.read_text())
    cache.write_text(json.dumps({**valid, **harm}))
    assert load_class_frequency(path) == WANT and json.loads(cache.read_text()) == valid

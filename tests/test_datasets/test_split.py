from copy import deepcopy

import pytest
from helpers.own_data import own_content

from apa_mmdet.datasets.lvis_form import as_lvis
from apa_mmdet.datasets.split import split_annotations
from apa_mmdet.utils.errors import CodedError


def names(part):
    return [image['file_name'] for image in part['images']]


def test_every_image_is_in_one_part_with_its_annotations():
    content = own_content(images=40)
    split = split_annotations(content, 0.25, 'a.json')
    assert len(split.val['images']) == 10 and sorted(names(split.train) + names(split.val)) == sorted(names(content))
    for part in (split.train, split.val):
        ids = {image['id'] for image in part['images']}
        assert part['annotations'] == [a for a in content['annotations'] if a['image_id'] in ids]
        assert part['categories'] == content['categories']
    assert split.only_trained == []


def test_the_split_depends_on_the_names_of_the_images_alone():
    content = own_content(images=40)
    expected = names(split_annotations(content, 0.25, 'a.json').val)
    other = deepcopy(content)
    other['images'].reverse()
    for record in other['images'] + other['annotations']:
        key = 'image_id' if 'image_id' in record else 'id'
        record[key] += 1000
    assert sorted(names(split_annotations(other, 0.25, 'b.json').val)) == sorted(expected)
    assert expected == [f'{i}.png' for i in (2, 6, 7, 8, 14, 18, 33, 34, 38, 40)]  # on every machine


def test_records_of_one_image_stay_together():
    content = own_content(images=40)
    for image in content['images']:
        image['file_name'] = f'{image["id"] // 4}.png'
    split = split_annotations(content, 0.25, 'a.json')
    assert set(names(split.train)) & set(names(split.val)) == set()


def test_a_class_keeps_a_training_image():
    content = own_content(images=12, names=[f'kind {i}' for i in range(12)], per_image=12)
    split = split_annotations(content, 0.5, 'a.json')
    trained = {annotation['category_id'] for annotation in split.train['annotations']}
    assert len(trained) == 12 and split.val['annotations']
    single = [f'kind {i}' for i in range(6, 12)]  # of one image each
    assert set(single) <= set(split.only_trained)
    with pytest.raises(CodedError) as error:
        split_annotations(own_content(images=1), 0.5, 'a.json')
    assert error.value.code == 'nothing-to-hold-out'


def test_the_lvis_form_counts_the_training_part():
    content = as_lvis(own_content(images=40), 'a.json')
    split = split_annotations(content, 0.25, 'a.json')
    assert [c['image_count'] for c in content['categories']] == [40, 20, 13]
    shown = {(a['image_id'], a['category_id']) for a in split.train['annotations']}
    counts = [sum(category == c['id'] for _, category in shown) for c in content['categories']]
    assert [c['image_count'] for c in split.train['categories']] == counts and sum(counts) < 73
    assert split.val['categories'] == split.train['categories']


def test_classes_of_the_lvis_form_that_share_a_name_are_counted_each():
    content = own_content(images=40)
    for category in content['categories']:
        category['name'] = 'bat'
    split = split_annotations(as_lvis(content, 'a.json'), 0.25, 'a.json')
    other = split_annotations(as_lvis(own_content(images=40), 'a.json'), 0.25, 'a.json')
    for found, expected in zip(split.train['categories'], other.train['categories']):
        assert dict(found, name=None) == dict(expected, name=None)

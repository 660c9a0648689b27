import json

import pytest
from helpers.own_data import own_content

from apa_mmdet.datasets import lvis_form
from apa_mmdet.datasets.lvis_form import BadNegatives, as_lvis, read_negatives
from apa_mmdet.utils.findings import ValidationError


def test_categories_that_share_a_name_have_counts_of_their_own():
    content = own_content(images=4)
    first, second = content['categories'][:2]
    first['name'] = second['name'] = 'bat'
    content['annotations'] = [a for a in content['annotations'] if a['category_id'] != second['id']]
    counts = [(c['image_count'], c['instance_count']) for c in as_lvis(content, 'a.json')['categories'][:2]]
    objects = [a for a in content['annotations'] if a['category_id'] == first['id']]
    assert counts == [(len({a['image_id'] for a in objects}), len(objects)), (0, 0)] and objects


@pytest.mark.parametrize(
    'kind, key, value', [('images', 'file_name', None), ('images', 'file_name', 7), ('categories', 'name', None)]
)
def test_a_record_without_its_name_is_named(kind, key, value):
    content = own_content(images=4)
    content[kind][1][key] = value
    if value is None:
        del content[kind][1][key]
    with pytest.raises(ValidationError, match=f'a.json: {kind} whose "{key}" is missing or not') as error:
        as_lvis(content, 'a.json')
    assert (error.value.code, error.value.ids) == ('invalid-field', (content[kind][1]['id'],))


@pytest.mark.parametrize(
    'negatives, fault',
    [
        ({'one': [1]}, "the key 'one' is not the id of an image"),
        ({'01': [1]}, "the key '01' is not the id of an image"),
        ({'1': 3}, 'image 1 has 3; it must be a list'),
        ({'1': [[2]]}, r'image 1 has \[\[2\]\]; it must be a list'),
        ([1], 'holds a list; it must be an object of "id of an image"'),
    ],
)
def test_negatives_that_are_none_are_named(tmp_path, negatives, fault):
    path = tmp_path / 'absent.json'
    path.write_text(json.dumps(negatives))
    with pytest.raises(BadNegatives, match=f'absent.json:? {fault}') as error:
        read_negatives(str(path))
    assert error.value.code == 'invalid-negatives'


@pytest.mark.parametrize('category, fault', [(10, 'annotated'), (99, 'unknown')])
def test_a_category_that_cannot_be_absent_is_named(category, fault):
    with pytest.raises(BadNegatives, match=f'image 1 of a.json: category {category} is {fault}, not absent') as error:
        as_lvis(own_content(images=2), 'a.json', {1: [category]})
    assert error.value.code == 'wrong-negative'


def test_negatives_keep_ids_that_are_numbers_beside_texts():
    content = own_content(images=6)
    for record, key in [(c, 'id') for c in content['categories']] + [
        (a, 'category_id') for a in content['annotations']
    ]:
        record[key] = 'b' if record[key] == 20 else record[key]
    negatives = {image['id']: image['neg_category_ids'] for image in as_lvis(content, 'a.json')['images']}
    assert negatives == {1: ['b', 30], 2: [30], 3: ['b'], 4: [30], 5: ['b', 30], 6: []}


def test_negatives_without_number_are_refused_with_it_unless_they_are_named(monkeypatch):
    monkeypatch.setattr(lvis_form, 'MAX_NEGATIVES', 6)
    content = own_content(images=6)
    with pytest.raises(
        BadNegatives, match='a.json has 6 images and 3 categories, so 7 negatives, more than 6;'
    ) as error:
        as_lvis(content, 'a.json')
    assert error.value.code == 'too-many-negatives'
    assert as_lvis(content, 'a.json', {1: [20]})['images'][0]['neg_category_ids'] == [20]

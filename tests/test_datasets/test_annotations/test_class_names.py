import pytest

from apa_mmdet.datasets.annotations.class_names import match_classes
from apa_mmdet.datasets.annotations.selection import select_categories
from apa_mmdet.utils.findings import ValidationError


@pytest.mark.parametrize(
    'classes, names, expected',
    [
        ('ba', 'abc', [1, 0]),
        ('aba', 'bacaa', [1, 0, 3]),
        ('aab', 'ab', [0, -1, 1]),
        ('', 'ab', []),
        (['speaker_(stereo_equipment)'], ['a', 'speaker_(stero_equipment)'], [1]),  # as mmdet and as LVIS spell it
        (['speaker_(stero_equipment)'], ['speaker_(stereo_equipment)'], [0]),
    ],
)
def test_the_nth_of_a_name_is_matched_with_the_nth(classes, names, expected):
    assert match_classes(classes, names) == expected


def test_categories_are_selected_in_the_order_of_the_classes():
    categories = [dict(id=i, name=name) for i, name in enumerate('abacd')]
    assert [c['id'] for c in select_categories('ca', categories, 'a.json')] == [3, 0]
    for classes, code, ids in (('aex', 'missing-category', ('e', 'x')), ('aba', 'duplicate-class', ('a',))):
        with pytest.raises(ValidationError, match='^a.json: ') as error:
            select_categories(classes, categories, 'a.json')
        assert (error.value.code, error.value.ids) == (code, ids)

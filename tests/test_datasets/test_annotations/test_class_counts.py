import json

import numpy as np
import pytest

from apa_mmdet.datasets.annotations.class_counts import BadClassCounts, exponential_counts, load_class_counts
from apa_mmdet.datasets.annotations.image_lists import read_image_list
from apa_mmdet.utils.findings import ValidationError


def test_cifar_100_lt_has_the_images_of_the_field():
    counts = exponential_counts(500, 100, 100)
    assert counts.sum() == 10847 and (counts[0], counts[-1]) == (500, 5)
    assert exponential_counts(500, 10, 1).tolist() == [500] * 10 and exponential_counts(7, 1, 50).tolist() == [7]


def test_counts_from_a_list_numbers_and_json(tmp_path):
    (tmp_path / 'a.txt').write_text('x y.jpg 1\nb.jpg 1\nc.jpg 0\n')
    (tmp_path / 'a.json').write_text(json.dumps([1, 2, 0]))
    for source in (str(tmp_path / 'a.txt'), tmp_path / 'a.json', [1, 2, 0], np.array([1, 2, 0])):
        assert load_class_counts(source, 3).tolist() == [1, 2, 0]
    assert read_image_list(tmp_path / 'a.txt').paths == ['x y.jpg', 'b.jpg', 'c.jpg']


@pytest.mark.parametrize('numbers', [[1, 2], [1, 2, -1], [1, 2, 0.5], [1, 2, True], 7, None])
def test_numbers_that_are_no_counts(numbers):
    with pytest.raises(BadClassCounts, match='class_counts: has to be 3 numbers of training images') as refused:
        load_class_counts(numbers, 3)
    assert refused.value.code == 'invalid-class-counts'


@pytest.mark.parametrize(
    'numbers',
    [
        dict(largest=500),
        dict(ratio=10),
        dict(largest=500, ratio=10, smallest=5),
        dict(largest=0, ratio=10),
        dict(largest=50.5, ratio=10),
        dict(largest=True, ratio=10),
        dict(largest='500', ratio=10),
        dict(largest=500, ratio=0),
        dict(largest=500, ratio=float('nan')),
        dict(largest=500, ratio=None),
    ],
)
def test_wrong_numbers_of_a_long_tail(numbers):
    with pytest.raises(
        BadClassCounts, match=r'class_counts: has to be dict\(largest=…, ratio=…\), .*not \{'
    ) as refused:
        load_class_counts(numbers, 3)
    assert refused.value.code == 'invalid-class-counts'


@pytest.mark.parametrize(
    'content, code, line',
    [
        (b'', 'empty-file', 'a.txt is empty'),
        (b'a.jpg 0\nb.jpg\n', 'invalid-list-line', "a.txt, line 2 is 'b.jpg'; it should be a path, a space and"),
        (b'a.jpg 0\nb.jpg one\n', 'invalid-list-line', "line 2 is 'b.jpg one'"),
        (b'a.jpg -1\n', 'invalid-list-line', "line 1 is 'a.jpg -1'"),
        (b'a.jpg 0\n\nb.jpg 1\n', 'invalid-list-line', "line 2 is ''"),
        (b'a.jpg 0\nb.jpg 3\n', 'label-outside-list', 'line 2 has the label 3; the last class is 2'),
        ('Käse.jpg 0\n'.encode('cp1252'), 'not-utf8', 'a.txt is not in UTF-8, perhaps in WINDOWS-1252'),
    ],
)
def test_a_list_that_cannot_be_used(content, code, line, tmp_path):
    (tmp_path / 'a.txt').write_bytes(content)
    with pytest.raises(ValidationError, match=line) as refused:
        load_class_counts(str(tmp_path / 'a.txt'), 3)
    assert refused.value.code == code

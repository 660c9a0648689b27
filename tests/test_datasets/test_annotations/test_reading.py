import json

import numpy as np
import pytest
from helpers.annotations import VAL

from apa_mmdet.datasets.annotations.reading import read_annotations
from apa_mmdet.utils.findings import ValidationError


@pytest.mark.parametrize(
    'text, code',
    [
        ('', 'empty-file'),
        ('{"images": [{"id": 1, "file_name": "a', 'truncated-file'),
        ('{"images": [], "annotations": [{"id": 1}, {"id": 2', 'truncated-file'),
        ('<html><body>404 Not Found</body></html>', 'not-json'),
        ('[1, 2]', 'not-annotations'),
        (b'PK\x03\x04\xff\xfe', 'packed-file'),
        (b'\x1f\x8b\x08\x00', 'packed-file'),
        ('{"images": ["Käse"]}'.encode('latin-1'), 'not-utf8'),
        ('{"images": [1]}'.encode('utf-16'), 'not-utf8'),
        ('{"images": [1]}'.encode('utf-16-le'), 'not-utf8'),
        ('{"images": [1]}'.encode('utf-32'), 'not-utf8'),
        ('{"images": [1]}'.encode('utf-8-sig'), 'byte-order-mark'),
        ('[' * 100_000, 'not-json'),
        ('{"images": ' + '1' * 5000 + '}', 'not-json'),
        ('{"images": [{"id": 1, "bbox": [1], "bbox": [2]}]}', 'duplicate-key'),
        ('{"images": [], "images": []}', 'duplicate-key'),
    ],
    ids=range(16),
)
def test_an_unreadable_file_is_named_in_one_line(tmp_path, text, code):
    path = tmp_path / 'a.json'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValidationError) as error:
        read_annotations(path)
    assert error.value.code == code
    assert str(error.value).startswith(f'{path} ') and '\n' not in str(error.value)


def test_a_duplicate_key_names_key_and_record(tmp_path):
    path = tmp_path / 'a.json'
    path.write_text('[{"id": 7, "bbox": [1], "bbox": [2]}]')
    with pytest.raises(ValidationError) as error:
        read_annotations(path)
    assert str(error.value) == f'{path} gives "bbox" more than once in the record with the id 7; remove all but one'


def test_a_truncated_file_is_recognized_wherever_it_ends(valid, tmp_path):
    text = json.dumps(json.loads((valid[0] / VAL).read_text()))
    for end in np.linspace(1, len(text) - 1, 60).astype(int):
        (tmp_path / 'cut.json').write_text(text[:end])
        with pytest.raises(ValidationError, match=f'after {end} characters') as error:
            read_annotations(tmp_path / 'cut.json')
        assert error.value.code == 'truncated-file'

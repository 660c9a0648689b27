import json

import pytest
from helpers.annotations import coco_dataset, codes, findings_of

from apa_mmdet.datasets.annotations.encodings import guess_encoding


@pytest.mark.parametrize(
    'text, encoding, guess',
    [
        ('Käse, Äpfel, crème brûlée, piñata', 'cp1252', 'WINDOWS-1252'),
        ('苹果、香蕉、橙子', 'gbk', 'GB18030'),
        ('𠮷野家', 'gb18030', 'GB18030'),
        ('りんご、バナナ、みかん', 'shift_jis', 'SHIFT_JIS'),
        ('りんご、バナナ、みかん', 'euc_jp', 'EUC-JP'),
        ('사과, 바나나, 오렌지', 'euc_kr', 'EUC-KR'),
        ('蘋果、香蕉、橘子', 'big5', 'BIG5'),
        ('苹果', 'utf-16', 'UTF-16'),
        ('apple', 'utf-16-be', 'UTF-16-BE'),
        ('apple', 'utf-32', 'UTF-32'),
    ],
)
def test_the_encoding_is_among_the_guesses(text, encoding, guess):
    data = json.dumps([text], ensure_ascii=False).encode(encoding)
    guesses = guess_encoding(data).split(' or ')
    assert guess in guesses
    if guess not in ('WINDOWS-1252', 'UTF-16', 'UTF-16-BE', 'UTF-32'):
        assert all(data.decode(name) for name in guesses)


def test_an_annotation_file_in_another_encoding_names_it(tmp_path):
    cfg, path = coco_dataset(tmp_path / 'd'), tmp_path / 'd/a.json'
    path.write_text(path.read_text().replace('date', '苹果'), encoding='gbk')
    (finding,) = findings_of(cfg)
    assert codes([finding]) == [('not-utf8', (str(path),))]
    assert ', perhaps in GB18030' in finding.message and finding.message.endswith('iconv -f NAME -t UTF-8 OLD > NEW')

"""tools/class_statistics.py: images, instances and fractal dimension of each class."""

import json

import pytest
from helpers.own_data import own_content

from apa_mmdet.apis.class_statistics import write_class_statistics


def test_names_are_written_as_they_are_even_what_utf8_cannot_hold(tmp_path):
    (tmp_path / 'train.json').write_text(json.dumps(own_content(images=2, names=['Käse', '\ud800'])))
    write_class_statistics(str(tmp_path / 'train.json'), str(tmp_path / 'out.json'))
    text = (tmp_path / 'out.json').read_text(encoding='utf-8')
    assert 'Käse' in text and [c['name'] for c in json.loads(text)['categories']] == ['Käse', '\ud800']


def test_neither_the_annotations_nor_another_file_are_overwritten_unasked(tmp_path):
    train, out = tmp_path / 'train.json', tmp_path / 'out.json'
    train.write_text(json.dumps(own_content(images=2)))
    out.write_text('{}')
    (tmp_path / 'link.json').symlink_to(train)
    for target, force, line in (
        (out, False, 'out.json exists already; name another file, or overwrite it with --force'),
        (train, True, 'train.json is what is read; name another file for the result'),
        (tmp_path / 'link.json', True, 'link.json is what is read'),
    ):
        with pytest.raises(FileExistsError, match=line):
            write_class_statistics(str(train), str(target), force)
    assert json.loads(train.read_text()) == own_content(images=2) and out.read_text() == '{}'
    write_class_statistics(str(train), str(out), force=True)
    assert json.loads(out.read_text())['source'] == 'train.json'

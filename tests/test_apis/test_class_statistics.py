"""tools/class_statistics.py: images, instances and fractal dimension of each class."""

import json

from helpers.own_data import own_content

from apa_mmdet.apis.class_statistics import write_class_statistics


def test_names_are_written_as_they_are_even_what_utf8_cannot_hold(tmp_path):
    (tmp_path / 'train.json').write_text(json.dumps(own_content(images=2, names=['Käse', '\ud800'])))
    write_class_statistics(str(tmp_path / 'train.json'), str(tmp_path / 'out.json'))
    text = (tmp_path / 'out.json').read_text(encoding='utf-8')
    assert 'Käse' in text and [c['name'] for c in json.loads(text)['categories']] == ['Käse', '\ud800']

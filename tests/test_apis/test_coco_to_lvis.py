"""tools/coco_to_lvis.py: COCO's annotations in LVIS's form."""

import json
import runpy
import sys

import pytest
from helpers import coco_samples, lvis_samples
from helpers.paths import ROOT
from lvis import LVIS
from mmdet.datasets import LVISV1Dataset

from apa_mmdet.evaluation import FastCocoMetric, FastLVISMetric


@pytest.fixture
def tool(monkeypatch):
    """Runs tools/coco_to_lvis.py; gives its exit status."""

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['coco_to_lvis.py', *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / 'tools/coco_to_lvis.py'), run_name='__main__')
        return ended.value.code

    return run


def drawn(seed):
    content, samples = coco_samples.draw(seed)
    for image in content['images']:
        image['file_name'] = f'{image["id"]}.jpg'
        del image['neg_category_ids'], image['not_exhaustive_category_ids']
    for category in content['categories']:
        del category['frequency']
    return content, samples


def test_ap_without_crowds_is_that_of_coco(tmp_path, tool):
    content, samples = drawn(4)
    content['annotations'] = [
        {key: value for key, value in a.items() if key != 'ignore'}
        for a in content['annotations']
        if not a['iscrowd'] and a['area'] > 0
    ]
    for sample in samples:  # LVIS drops detections without area
        found = sample['pred_instances']
        kept = (found['bboxes'][:, 2:] > found['bboxes'][:, :2]).all(1)
        found.update({key: value[kept] for key, value in found.items()})
    content['categories'].sort(key=lambda category: category['id'])
    ann_file = lvis_samples.saved(content, tmp_path)
    assert tool(ann_file, tmp_path / 'lvis.json') is None
    coco = coco_samples.result(FastCocoMetric, ann_file, samples)
    lvis = lvis_samples.result(FastLVISMetric, str(tmp_path / 'lvis.json'), samples)
    for ours, theirs in (('mAP', 'AP'), ('mAP_50', 'AP50'), ('mAP_m', 'APm')):
        assert coco[f'coco/bbox_{ours}'] == lvis[f'lvis/bbox_{theirs}']
    assert coco['coco/bbox_mAP'] > 0


def test_records_have_the_keys_of_lvis(tmp_path, tool, capsys):
    content, _ = drawn(1)
    ann_file, train = lvis_samples.saved(content, tmp_path), tmp_path / 'train.json'
    train.write_text(json.dumps(content))
    numbers = [image['id'] for image in content['images']]
    present = {n: {a['category_id'] for a in content['annotations'] if a['image_id'] == n} for n in numbers}
    crowds = {(a['image_id'], a['category_id']) for a in content['annotations'] if a['iscrowd']}
    assert tool(ann_file, tmp_path / 'lvis.json', '--train', train) is None
    assert '6 images' in capsys.readouterr().out
    lvis = LVIS(str(tmp_path / 'lvis.json'))
    for number, image in lvis.imgs.items():
        assert set(image['neg_category_ids']) == set(lvis.cats) - present[number]
        assert {(number, c) for c in image['not_exhaustive_category_ids']} == {p for p in crowds if p[0] == number}
    for number, category in lvis.cats.items():
        single = [a for a in content['annotations'] if a['category_id'] == number and not a['iscrowd']]
        assert category['instance_count'] == len(single)
        assert category['image_count'] == len({a['image_id'] for a in single}) and category['frequency'] == 'r'
    assert len(lvis.anns) == len(content['annotations']) - sum(a['iscrowd'] for a in content['annotations']) and crowds
    dataset = LVISV1Dataset(
        ann_file=str(tmp_path / 'lvis.json'),
        data_prefix=dict(img=''),
        metainfo=dict(classes=coco_samples.CLASSES),
        test_mode=True,
        pipeline=[],
    )
    assert [dataset.get_data_info(i)['img_path'] for i in range(6)] == [f'{n}.jpg' for n in numbers]


def test_negatives_may_be_given(tmp_path, tool):
    content, _ = drawn(1)
    ann_file, number = lvis_samples.saved(content, tmp_path), content['annotations'][0]['image_id']
    present = {a['category_id'] for a in content['annotations'] if a['image_id'] == number}
    absent = next(c for c in range(1, 7) if c not in present)
    (tmp_path / 'absent.json').write_text(json.dumps({number: [absent]}))
    assert tool(ann_file, tmp_path / 'lvis.json', '--negatives', tmp_path / 'absent.json') is None
    images = json.loads((tmp_path / 'lvis.json').read_text())['images']
    assert {i['id']: i['neg_category_ids'] for i in images if i['neg_category_ids']} == {number: [absent]}
    (tmp_path / 'absent.json').write_text(json.dumps({number: sorted(present)}))
    message = tool(ann_file, tmp_path / 'other.json', '--negatives', tmp_path / 'absent.json')
    assert 'is annotated, not absent' in message and not (tmp_path / 'other.json').exists()


def test_negatives_of_other_images_are_reported(tmp_path, tool, capsys):
    ann_file = lvis_samples.saved(drawn(1)[0], tmp_path)
    (tmp_path / 'absent.json').write_text(json.dumps({'987654321': [1]}))
    assert tool(ann_file, tmp_path / 'lvis.json', '--negatives', tmp_path / 'absent.json') is None
    assert f'; 1 images of {tmp_path / "absent.json"} are not in {ann_file}' in capsys.readouterr().out


def test_damaged_annotations_end_in_a_line_that_names_the_record(tmp_path, tool):
    content, _ = drawn(1)
    ann_file, train = lvis_samples.saved(content, tmp_path), tmp_path / 'train.json'
    train.write_text(json.dumps(dict(content, categories=content['categories'][1:], annotations=[])))
    assert tool(ann_file, tmp_path / 'lvis.json', '--train', train).startswith(f'coco_to_lvis: {train}: ')
    del content['categories'][0]['name']
    ann_file = lvis_samples.saved(content, tmp_path)
    message = tool(ann_file, tmp_path / 'lvis.json', '--train', train)
    assert f'{ann_file}: categories whose "name" is missing' in message and '\n' not in message
    assert not (tmp_path / 'lvis.json').exists()


def test_frequencies_are_those_of_the_training(tmp_path, tool):
    content, _ = drawn(1)
    ann_file, train = lvis_samples.saved(content, tmp_path), tmp_path / 'train.json'
    single = next(a for a in content['annotations'] if not a['iscrowd'])
    train.write_text(json.dumps(dict(content, categories=content['categories'][::-1], annotations=[single])))
    assert tool(ann_file, tmp_path / 'lvis.json', '--train', train) is None
    counts = {c['id']: c['image_count'] for c in json.loads((tmp_path / 'lvis.json').read_text())['categories']}
    assert counts == {c['id']: int(c['id'] == single['category_id']) for c in content['categories']}
    train.write_text(
        json.dumps(dict(json.loads(train.read_text()), categories=[dict(id=single['category_id'], name='x')]))
    )
    message = tool(ann_file, tmp_path / 'lvis.json', '--train', train, '--force')
    assert f'train: classes that {train} lacks: 6 of 6' in message


def test_no_file_that_is_read_is_overwritten(tmp_path, tool):
    ann_file = lvis_samples.saved(drawn(1)[0], tmp_path)
    (tmp_path / 'absent.json').write_text('{}')
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for name in before:
        message = tool(ann_file, name, '--negatives', tmp_path / 'absent.json', '--force')
        assert message == f'coco_to_lvis: {name} is what is read; name another file for the result'
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before

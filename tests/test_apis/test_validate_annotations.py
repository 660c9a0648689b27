"""Before training and testing, annotations are looked through: by the tools themselves, on files with one fault each."""

import copy
import json
import subprocess
import sys

import pytest
from helpers.paths import ROOT
from mmengine.config import Config

from apa_mmdet.apis.validate_annotations import BadAnnotations, look_at_annotations
from apa_mmdet.datasets.tiny_lvis.generate import make_tiny_lvis

TINY = ROOT / 'configs/tiny_lvis/mask_rcnn_se_r18_apa.py'
TRAIN, VAL = 'annotations/lvis_v1_train.json', 'annotations/lvis_v1_val.json'
GO_ON = 'to go on all the same: --cfg-options check_annotations=False'


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / 'data/tiny_lvis'
    make_tiny_lvis(folder, train=16, val=4, size=(80, 64), progress=False)
    return folder


@pytest.fixture
def cfg(data, monkeypatch):
    monkeypatch.chdir(data.parents[1])
    return Config.fromfile(TINY)


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def nan_polygon(content):
    content['annotations'][2]['segmentation'][0][0] = float('nan')


def negative_width(content):
    content['annotations'][2]['bbox'][2] *= -1


@pytest.mark.parametrize(
    'tool, file, split, change',
    [('train.py', TRAIN, 'train', nan_polygon), ('test.py', VAL, 'test', negative_width)],
    ids=['train', 'test'],
)
def test_the_tools_name_the_record_instead_of_starting(tool, file, split, change, data, tmp_path):
    edit(data / file, change)
    number = json.loads((data / file).read_text())['annotations'][2]['id']
    command = [sys.executable, ROOT / 'tools' / tool, TINY, *['nowhere.pth'] * (tool == 'test.py')]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    *_, line, advice = run.stderr.strip().splitlines()
    assert run.returncode == 1 and 'Traceback' not in run.stderr and advice.endswith(GO_ON)
    assert line.startswith(f'error    {split}') and f'e.g. {number}' in line


def test_what_is_only_odd_is_printed(data, cfg, capsys):
    edit(data / TRAIN, lambda content: content['images'].append(dict(content['images'][0], id=10**6)))
    look_at_annotations(cfg, ['train', 'val'])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith('warning  train: images without annotations: ') for line in lines)


def test_a_missing_file_is_all_that_is_said(data, cfg):
    (data / VAL).unlink()
    with pytest.raises(BadAnnotations, match='^missing: .*; make the data set with: python tools/make_tiny_lvis.py$'):
        look_at_annotations(cfg, ['train', 'val'])


def test_images_are_not_looked_at(data, cfg):
    for image in data.glob('val2017/*'):
        image.unlink()
    look_at_annotations(cfg, ['test'])


def test_a_test_needs_no_training_data(data, cfg):
    (data / TRAIN).unlink()
    look_at_annotations(cfg, ['test'])


@pytest.mark.parametrize(
    'change, rank',
    [
        (dict(), '1'),
        (dict(check_annotations=False), '0'),
        (dict(test_evaluator=dict(format_only=True)), '0'),
        (dict(test_dataloader=None), '0'),
    ],
    ids=['another process', 'switched off', 'predictions alone', 'no such split'],
)
def test_when_nobody_looks(change, rank, data, cfg, monkeypatch):
    (data / VAL).write_text('{')
    with pytest.raises(BadAnnotations):
        look_at_annotations(copy.deepcopy(cfg), ['test'])
    monkeypatch.setenv('RANK', rank)
    cfg.merge_from_dict(change)
    look_at_annotations(cfg, ['test'])

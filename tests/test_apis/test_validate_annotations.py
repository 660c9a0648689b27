"""Training and testing start with the validation of the annotations, here of files with one fault each."""

import copy
import json
import shutil

import pytest
from helpers.paths import ROOT
from helpers.programs import fork_program
from mmengine.config import Config
from mmengine.logging import MMLogger

from apa_mmdet.apis.launch_checks.launch import Launch
from apa_mmdet.apis.validate_annotations import BadAnnotations, validate_annotations

TINY = ROOT / 'configs/tiny_lvis/mask_rcnn_se_r18_apa.py'
TRAIN, VAL = 'annotations/lvis_v1_train.json', 'annotations/lvis_v1_val.json'
ADVICE = 'fix the errors; to start anyway: --cfg-options check_annotations=False'


@pytest.fixture
def data(tmp_path, tiny_data):
    folder = tmp_path / 'data/tiny_lvis'
    shutil.copytree(tiny_data(train=4, val=2, size=(96, 64)), folder)
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
    'tool, file, split, change, code',
    [
        ('train.py', TRAIN, 'train', nan_polygon, 'mask-out-of-range'),
        ('test.py', VAL, 'test', negative_width, 'negative-box'),
    ],
    ids=['train', 'test'],
)
def test_the_tools_name_the_record_instead_of_starting(tool, file, split, change, code, data, tmp_path):
    edit(data / file, change)
    number = json.loads((data / file).read_text())['annotations'][2]['id']
    (tmp_path / 'weights.pth').touch()
    run = fork_program(ROOT / 'tools' / tool, TINY, *['weights.pth'] * (tool == 'test.py'), cwd=tmp_path)
    *_, line, advice = run.stderr.strip().splitlines()
    assert run.returncode == 1 and 'Traceback' not in run.stderr and advice.endswith(ADVICE)
    assert line.startswith(f'error    {split}: ') and line.endswith(f'  [{code}]') and f'e.g. {number}' in line


def test_warnings_are_logged(data, cfg, monkeypatch):
    lines = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'warning', lines.append)
    edit(data / TRAIN, lambda content: content['images'].append(dict(content['images'][0], id=10**6)))
    validate_annotations(Launch('train.py', cfg))
    assert any(line.startswith('warning  train: ') and line.endswith('[image-without-annotations]') for line in lines)


def test_errors_carry_their_findings(data, cfg):
    edit(data / TRAIN, nan_polygon)
    with pytest.raises(BadAnnotations) as error:
        validate_annotations(Launch('train.py', cfg))
    (finding,) = error.value.findings
    assert (finding.code, finding.dataset, len(finding.ids)) == ('mask-out-of-range', 'train', 1)
    assert error.value.code == 'findings' and str(error.value) == f'{finding}\n{ADVICE}'


def test_a_missing_file_is_reported_alone(data, cfg):
    (data / VAL).unlink()
    with pytest.raises(BadAnnotations, match='^missing: .*; make the data set with: python tools/make_tiny_lvis.py$'):
        validate_annotations(Launch('train.py', cfg))


def test_images_are_not_checked(data, cfg):
    for image in data.glob('val2017/*'):
        image.unlink()
    validate_annotations(Launch('test.py', cfg))


def test_a_test_needs_no_training_data(data, cfg):
    (data / TRAIN).unlink()
    validate_annotations(Launch('test.py', cfg))


@pytest.mark.parametrize(
    'change, rank',
    [(dict(), '1'), (dict(check_annotations=False), '0'), (dict(test_dataloader=None), '0')],
    ids=['another process', 'switched off', 'no such split'],
)
def test_when_validation_is_skipped(change, rank, data, cfg, monkeypatch):
    (data / VAL).write_text('{')
    monkeypatch.setenv('RANK', rank)
    with pytest.raises(BadAnnotations):  # without a launcher it is the only process
        validate_annotations(Launch('test.py', copy.deepcopy(cfg)))
    cfg.merge_from_dict(change)
    validate_annotations(Launch('test.py', cfg, launcher='pytorch'))


def test_images_and_categories_are_validated_where_predictions_are_only_written(data, cfg):
    cfg.test_evaluator = dict(cfg.test_evaluator, format_only=True, outfile_prefix='out')
    edit(data / VAL, lambda content: content.pop('annotations'))
    validate_annotations(Launch('test.py', cfg))
    edit(data / VAL, lambda content: content.pop('images'))
    with pytest.raises(BadAnnotations) as error:
        validate_annotations(Launch('test.py', cfg))
    assert [(finding.code, finding.ids) for finding in error.value.findings] == [('missing-records', ('images',))]


def test_a_test_without_annotations_is_refused_before_it_starts(data, cfg):
    edit(data / VAL, lambda content: content.update(annotations=[]))
    with pytest.raises(BadAnnotations, match='set format_only=True and outfile_prefix in its evaluator') as error:
        validate_annotations(Launch('test.py', cfg))
    assert 'nothing-to-evaluate' in [finding.code for finding in error.value.findings]

"""Checkpoints that a start names and that are not there are reported before anything is built."""

import sys

import pytest
import torch
from mmengine.config import Config

from apa_mmdet.apis import mmdet_tools
from apa_mmdet.apis.launch_checks.launch import Launch
from apa_mmdet.apis.launch_checks.validate_launch import check_launch
from apa_mmdet.apis.launch_checks.weights import check_checkpoints


def found(tool='train.py', model=None, options=None, **launch):
    cfg = Config(dict(model=model or {}, **(options or {})))
    findings = check_launch(Launch(tool, cfg, **launch), [check_checkpoints])
    return [(finding.code, *finding.ids) for finding in findings]


PRETRAINED = dict(type='Pretrained', checkpoint='a.pth')


@pytest.mark.parametrize(
    'launch, expected',
    [
        (dict(), []),
        (dict(tool='test.py', checkpoint='nowhere.pth'), [('missing-checkpoint', 'nowhere.pth')]),
        (dict(tool='test.py', checkpoint='file:///nowhere.pth'), [('missing-checkpoint', 'file:///nowhere.pth')]),
        (dict(tool='test.py', checkpoint='https://host/a.pth', options=dict(load_from='nowhere.pth')), []),
        (dict(resume='nowhere.pth', options=dict(load_from='other.pth')), [('missing-checkpoint', 'nowhere.pth')]),
        (dict(options=dict(load_from='nowhere.pth')), [('missing-checkpoint', 'nowhere.pth')]),
        (dict(options=dict(load_from='open-mmlab://detectron2/resnet50_caffe')), []),
        (dict(resume='auto', options=dict(load_from='nowhere.pth')), [('missing-checkpoint', 'nowhere.pth')]),
        (dict(model=dict(backbone=dict(init_cfg=PRETRAINED))), [('missing-pretrained', 'a.pth')]),
        (dict(model=dict(heads=[dict(init_cfg=[dict(type='Normal'), PRETRAINED])])), [('missing-pretrained', 'a.pth')]),
        (dict(model=dict(backbone=dict(init_cfg=dict(PRETRAINED, checkpoint='torchvision://resnet50')))), []),
        (dict(tool='test.py', checkpoint='https://a', model=dict(backbone=dict(init_cfg=PRETRAINED))), []),
        (dict(model=dict(teacher_ckpt='teacher.pth')), [('missing-pretrained', 'teacher.pth')]),
        (dict(model=dict(backbone=dict(init_cfg='odd', pretrained=3)), options=dict(load_from=True)), []),
    ],
)
def test_what_is_not_there_is_reported(launch, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert found(**launch) == expected


def test_the_latest_checkpoint_is_looked_for_in_the_folder_of_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = dict(resume='auto', work_dir='run', options=dict(load_from='nowhere.pth'))
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/last_checkpoint').write_text('elsewhere/epoch_1.pth')
    assert found(**options) == [('missing-latest', 'elsewhere/epoch_1.pth')]
    (tmp_path / 'run/epoch_1.pth').write_bytes(b'')
    assert found(**options) == []
    hook = dict(default_hooks=dict(checkpoint=dict(out_dir='out')))
    assert found(**{**options, 'options': hook}) == [('missing-latest', 'elsewhere/epoch_1.pth')]
    (tmp_path / 'out/run').mkdir(parents=True)
    (tmp_path / 'run/epoch_1.pth').rename(tmp_path / 'out/run/epoch_1.pth')
    assert found(**{**options, 'options': hook}) == []


def test_a_folder_is_a_checkpoint_only_where_it_is_saved_in_parts(tmp_path):
    assert found(resume=str(tmp_path)) == [('missing-checkpoint', str(tmp_path))]
    assert found(resume=str(tmp_path), options=dict(runner_type='FlexibleRunner')) == []


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs tools/train.py in a folder, on a model that cannot be trained, which is noticed after the runner is built."""
    (tmp_path / 'config.py').write_text("model = dict(type='ResNet', depth=18)\ndefault_scope = 'mmdet'\n")
    torch.save({}, tmp_path / 'x.pth')
    monkeypatch.chdir(tmp_path)

    def started(*arguments):
        monkeypatch.setattr(sys, 'argv', ['train.py', 'config.py', *arguments])
        with pytest.raises(AssertionError, match='train_step'):
            mmdet_tools.run('train.py')
        cfg = Config.fromfile('work_dirs/config/config.py')
        return cfg.get('resume', False), cfg.load_from

    return started


def test_load_from_takes_effect_where_there_is_nothing_to_resume_yet(run, tmp_path):
    assert run('--resume', '--cfg-options', 'load_from=x.pth') == (False, 'x.pth')
    (tmp_path / 'work_dirs/config/last_checkpoint').write_text('x.pth')
    assert run('--resume', '--cfg-options', 'load_from=x.pth') == (True, None)


def test_a_tool_ends_with_the_path_before_anything_is_built(tmp_path, monkeypatch):
    (tmp_path / 'config.py').write_text("model = dict(type='NoSuchModel')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['train.py', 'config.py', '--resume', 'nowhere.pth'])
    with pytest.raises(
        SystemExit, match=r'--resume is nowhere.pth, which is not a file; correct.*\[missing-checkpoint\]$'
    ):
        mmdet_tools.run('train.py')

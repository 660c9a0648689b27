"""The command line: tools/check_dataset.py."""

import runpy
import shutil
import subprocess
import sys

import pytest
from helpers.annotations import TINY, TRAIN
from helpers.paths import ROOT

from apa_mmdet.apis import validate_annotations


def run_tool(monkeypatch, *arguments):
    """The tool's exit status, or the line with which it ends; in this process."""
    monkeypatch.setattr(sys, 'argv', ['check_dataset.py', *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / 'tools/check_dataset.py'), run_name='__main__')
    return ended.value.code


def test_the_tool_as_a_process(valid):
    command = [sys.executable, ROOT / 'tools/check_dataset.py', TINY, '--workers', '1']
    run = subprocess.run(command, cwd=valid[0].parents[1], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert '| val, test |' in run.stdout and run.stdout.endswith('no errors, no warnings: training can start\n')


def test_the_tool_prints_findings_with_their_codes_and_exits_with_1(broken, monkeypatch, capsys):
    folder, _ = broken
    monkeypatch.chdir(folder.parents[1])
    (folder / 'val2017/000000000002.jpg').unlink()
    options = '--split', 'val', '--no-images', '--cfg-options', 'model.roi_head.mask_head.num_classes=3'
    assert run_tool(monkeypatch, TINY, *options) == 1
    *_, first, second, verdict = capsys.readouterr().out.splitlines()
    assert first.startswith('error    val: missing images: 1 of 4, e.g. ') and first.endswith('  [missing-image]')
    assert second.startswith('error    model: model.roi_head.mask_head.num_classes is 3, but val has 48 classes')
    assert verdict == '2 errors, no warnings: fix the errors before training'


def test_images_that_are_trained_on_and_evaluated(broken, monkeypatch, capsys):
    folder, _ = broken
    monkeypatch.chdir(folder.parents[1])
    shutil.copy(folder / 'train2017/000000000003.jpg', folder / 'val2017/000000000002.jpg')
    assert run_tool(monkeypatch, TINY, '--workers', '1') == 0
    *_, finding, verdict = capsys.readouterr().out.splitlines()
    expected = 'warning  config: images of val, test that are trained on as well: 1 of 4, e.g. '
    assert finding.startswith(expected) and '000000000002.jpg (as ' in finding
    assert verdict == 'no errors, 1 warning: training can start'
    options = [f'{split}_dataloader.dataset.ann_file={TRAIN}' for split in ('val', 'test')]
    options += [f'{split}_evaluator.ann_file=data/tiny_lvis/{TRAIN}' for split in ('val', 'test')]
    assert run_tool(monkeypatch, TINY, '--no-images', '--cfg-options', *options) == 0
    *_, finding, _ = capsys.readouterr().out.splitlines()
    assert finding.startswith('warning  config: images of val, test that are trained on as well: 40 of 40, e.g. ')


def test_the_tool_prints_settings_that_do_not_fit(valid, monkeypatch, capsys):
    monkeypatch.chdir(valid[0].parents[1])
    options = '--split', 'train', '--no-images', '--cfg-options', 'num_classes=3'
    assert run_tool(monkeypatch, TINY, *options) == 1
    _, finding, _ = capsys.readouterr().out.rsplit('\n', 3)[:3]
    assert finding.startswith(
        'error    config: num_classes=3 comes after the config has read this variable; set model.'
    )


@pytest.mark.parametrize(
    'name, text, line',
    [
        ('none.py', None, 'no such file'),
        ('c.py', 'model = dict(', 'SyntaxError: '),
        ('c.py', 'x = 1 / 0', 'ZeroDivisionError: '),
        ('c.py', '_base_ = "./gone.py"', 'FileNotFoundError: '),
        ('c.txt', 'a', 'OSError: Only py/yml/yaml/json'),
    ],
)
def test_a_config_that_cannot_be_read(tmp_path, monkeypatch, name, text, line):
    if text is not None:
        (tmp_path / name).write_text(text)
    error = run_tool(monkeypatch, tmp_path / name)
    assert error.startswith(f'check_dataset: config {tmp_path / name}: {line}') and '\n' not in error


@pytest.mark.parametrize('option', ['foo', 'a=[1'])
def test_a_malformed_option_is_refused(monkeypatch, capsys, option):
    assert run_tool(monkeypatch, TINY, '--cfg-options', option) == 2
    assert f'argument --cfg-options: {option!r} ' in capsys.readouterr().err


def test_an_interrupt_is_quiet(monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(validate_annotations, 'validate_config', interrupted)
    assert run_tool(monkeypatch, TINY) == 130
    assert capsys.readouterr().err == ''

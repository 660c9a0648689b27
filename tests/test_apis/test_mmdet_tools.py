import sys
from importlib.util import find_spec

import pytest
from helpers.paths import ROOT
from helpers.programs import fork_program
from mmengine.config import Config

from apa_mmdet.apis import mmdet_tools
from apa_mmdet.utils.missing_data_hints import explain


@pytest.mark.parametrize('name', ['train.py', 'test.py'])
def test_mmdet_carries_the_tool_and_ours_starts_it(name):
    assert mmdet_tools.stock_tool(name).is_file()
    assert name in (ROOT / 'tools' / name).read_text()


def test_a_tool_that_mmdet_does_not_carry():
    with pytest.raises(FileNotFoundError, match='does not carry tools/fly.py'):
        mmdet_tools.stock_tool('fly.py')


def test_every_option_is_the_stock_tools():
    ours = fork_program(ROOT / 'tools/train.py', '--help')
    theirs = fork_program(mmdet_tools.stock_tool('train.py'), '--help')
    assert '--auto-scale-lr' in ours.stdout and ours.stdout == theirs.stdout


@pytest.mark.parametrize(
    'error, line',
    [
        (
            FileNotFoundError(2, 'No such file', 'data/lvis_v1/annotations/lvis_v1_train.json'),
            'missing: data/lvis_v1/annotations/lvis_v1_train.json; download LVIS v1',
        ),
        (
            FileNotFoundError(
                'Caught FileNotFoundError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n'
                "  File x\nFileNotFoundError: [Errno 2] No such file or directory: 'data/tiny_lvis/train2017/1.jpg'\n"
            ),
            "[Errno 2] No such file or directory: 'data/tiny_lvis/train2017/1.jpg'; make the data set with",
        ),
        (
            FileNotFoundError(2, 'No such file', 'data/lvis_v0.5/train2017/000000000001.jpg'),
            'missing: data/lvis_v0.5/train2017/000000000001.jpg; download LVIS v0.5',
        ),
        (
            FileNotFoundError(2, 'No such file', 'data/coco/val2017/000000000001.jpg'),
            'missing: data/coco/val2017/000000000001.jpg; download COCO 2017',
        ),
        (
            FileNotFoundError(2, 'No such file', 'data/V3Det/annotations/v3det_2023_v1_train_sam.json'),
            'missing: data/V3Det/annotations/v3det_2023_v1_train_sam.json; download V3Det',
        ),
        (
            FileNotFoundError(2, 'No such file', 'data/V3Det/annotations/category_name_13204_v3det_2023_v1.txt'),
            "missing: data/V3Det/annotations/category_name_13204_v3det_2023_v1.txt; this list of V3Det's class names",
        ),
        (
            FileNotFoundError(2, 'No such file', 'data/tiny_coco/train2017/1.jpg'),
            'missing: data/tiny_coco/train2017/1.jpg; make the data set with: python tools/make_tiny_lvis.py --form coco',
        ),
        (
            FileNotFoundError(2, 'No such file', 'data/tiny_lvis_v1/val2017/1.jpg'),
            'missing: data/tiny_lvis_v1/val2017/1.jpg; make the data set with: python tools/make_tiny_lvis.py --form lvis_v1',
        ),
        (
            FileNotFoundError(2, 'No such file', 'data/small_lvis/annotations/lvis_v1_val.json'),
            'missing: data/small_lvis/annotations/lvis_v1_val.json; make the data set with: '
            'python tools/make_tiny_lvis.py --form small_lvis',
        ),
        (FileNotFoundError(2, 'No such file', 'coco/val2017/1.jpg'), 'missing: coco/val2017/1.jpg; download COCO 2017'),
        (FileNotFoundError('pretrained weights are not there'), 'pretrained weights are not there'),
        (
            FileNotFoundError(2, 'No such file', '/photos/trainval.json'),
            'missing: /photos/trainval.json; say where your data lie',
        ),
    ],
)
def test_a_missing_file_gets_one_line(error, line):
    explained = explain(error)
    assert explained.startswith(line) and '\n' not in explained


@pytest.mark.parametrize(
    'error, line',
    [
        (FileNotFoundError(2, 'No such file', 'somewhere.json'), 'missing: somewhere.json'),
        *(
            (FileNotFoundError(2, 'No such file', path), f'missing: {path}')
            for path in (
                'data/my_coco/train2017/1.jpg',
                'data/my-lvis_v1/annotations/a.json',
                'data/small_trainval.json',
            )
        ),
        (
            FileNotFoundError('file "configs/tiny_lvis/mask.py" does not exist'),
            'file "configs/tiny_lvis/mask.py" does not exist',
        ),
        (FileNotFoundError(), 'a file is missing'),
    ],
)
def test_no_hint_where_none_fits(error, line):
    assert explain(error) == line


@pytest.mark.parametrize(
    'config, options, line',
    [
        (
            'configs/lvis/mask_rcnn_se_r50_apa.py',
            ['--cfg-options', 'model.backbone.init_cfg=None'],
            'missing: data/lvis_v1/annotations/lvis_v1_train.json; download LVIS v1',
        ),
        (
            'configs/tiny_lvis/mask_rcnn_se_r18_apa.py',
            [],
            'missing: data/tiny_lvis/annotations/lvis_v1_train.json; make the data set with: python tools/make_tiny_lvis.py',
        ),
    ],
)
def test_training_without_data_ends_with_one_line(config, options, line, tmp_path):
    run = fork_program(ROOT / 'tools/train.py', ROOT / config, *options, cwd=tmp_path)
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1].startswith(line)
    assert 'Traceback' not in run.stderr


@pytest.mark.parametrize('named, used', [('', 'SafeRunner'), ("runner_type = 'Runner'", 'Runner')])
def test_a_config_without_a_runner_gets_the_safe_one(named, used, tmp_path, monkeypatch):
    config = tmp_path / 'config.py'
    config.write_text(f"model = dict(type='ResNet', depth=18, in_channels=3)\ndefault_scope = 'mmdet'\n{named}\n")
    arguments = ['train.py', str(config), '--work-dir', str(tmp_path / 'work'), '--cfg-options', 'randomness.seed=0']
    monkeypatch.setattr(sys, 'argv', arguments)
    with pytest.raises(AssertionError, match='train_step'):  # nothing to train; the runner has been built
        mmdet_tools.run('train.py')
    assert Config.fromfile(tmp_path / 'work/config.py').runner_type == used
    assert arguments[-1] == 'randomness.seed=0'


def test_an_option_for_several_settings_reaches_the_tool_and_a_spent_variable_does_not(tmp_path, monkeypatch):
    config = tmp_path / 'config.py'
    config.write_text(
        "model = dict(type='ResNet', depth=18, in_channels=3)\ndefault_scope = 'mmdet'\nmax_epochs = 4\n"
        'level = 30\nlog_level = level\ntrain_cfg = dict(max_epochs=max_epochs)\ncheck_annotations = False\n'
        'train_dataloader = dict(dataset=dict())\noptim_wrapper = dict()\n'
    )

    def run(*options):
        arguments = ['train.py', str(config), '--work-dir', str(tmp_path / 'work'), '--cfg-options', *options]
        monkeypatch.setattr(sys, 'argv', arguments)
        mmdet_tools.run('train.py')

    with pytest.raises(AssertionError, match='train_step'):  # as above
        run('max_epochs=2')
    assert Config.fromfile(tmp_path / 'work/config.py').train_cfg.max_epochs == 2
    with pytest.raises(SystemExit, match=r'level=20 comes after .*; set log_level  \[spent-variable\]'):
        run('level=20')


def test_activations_that_cannot_be_swapped_end_with_one_line(tmp_path, monkeypatch):
    config = tmp_path / 'config.py'
    model = dict(type='SwapActivations', module=dict(type='ResNet', depth=18), swap=dict(GELU=dict(type='AGLU')))
    config.write_text(f"model = {model!r}\ndefault_scope = 'mmdet'")
    monkeypatch.setattr(sys, 'argv', ['train.py', str(config), '--work-dir', str(tmp_path / 'work')])
    with pytest.raises(SystemExit, match='^SwapActivations: no GELU in ResNet; its activations are [^\n]*$'):
        mmdet_tools.run('train.py')


def test_a_broken_config_ends_with_one_line(tmp_path, monkeypatch):
    (tmp_path / 'config.py').write_text('model = dict(')
    monkeypatch.setattr(sys, 'argv', ['train.py', str(tmp_path / 'config.py')])
    with pytest.raises(SystemExit, match=f'^config {tmp_path}/config.py: SyntaxError: '):
        mmdet_tools.run('train.py')


@pytest.mark.parametrize(
    'tool, arguments, line',
    [
        ('train.py', ['config.py', '--cfg-options', 'max_epochs', '1'], '--cfg-options takes KEY=VALUE, '),
        ('test.py', ['epoch_2.pth', 'config.py'], 'epoch_2.pth is given as config, config.py as checkpoint: '),
    ],
)
def test_arguments_in_another_form_or_order_end_with_one_line(tool, arguments, line, tmp_path, monkeypatch):
    (tmp_path / 'config.py').write_text("default_scope = 'mmdet'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [tool, *arguments])
    with pytest.raises(SystemExit, match=f'^{line}'):
        mmdet_tools.run(tool)


@pytest.mark.skipif(find_spec('mmpretrain') is not None, reason='MMPretrain is installed')
@pytest.mark.parametrize('tool', ['train.py', 'test.py'])
def test_a_classifier_without_mmpretrain_ends_with_one_line(tool, monkeypatch):
    config = str(ROOT / 'configs/imagenet/se_resnet50_apa_in1k.py')
    monkeypatch.setattr(sys, 'argv', [tool, '--work-dir', 'run', config, 'a.pth'])
    with pytest.raises(SystemExit) as ended:
        mmdet_tools.run(tool)
    assert ended.value.code == (
        f'config {config}: image classification needs MMPretrain, which is not installed; pip install '
        "'apa_mmdet[classification]', beside the onedl packages 'apa_mmdet[onedl-classification]'"
    )

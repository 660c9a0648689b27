"""Follows docs/customize_activation.md literally in a copy of the package."""

import re
import shutil
import sys

import pytest
from helpers.paths import ROOT
from helpers.processes import in_a_copy
from helpers.programs import fork_program, succeed

PAGE = (ROOT / 'docs/customize_activation.md').read_text()
BLOCK = re.compile(r'^`(\S+)`\n\n```(\w+)\n(.*?)^```$', re.M | re.S)


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    """A copy of the repository with the code blocks of the page."""
    folder = tmp_path_factory.mktemp('copy')
    for name in ('apa_mmdet', 'benchmarks', 'configs', 'tests/test_models/test_activations', 'tools'):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns('__pycache__'))
    for name in (
        'tests/conftest.py',
        'tests/test_doctests.py',
        'tests/data',
        'tests/helpers',
        'pyproject.toml',
        'model-index.yml',
    ):
        (folder / name).symlink_to(ROOT / name)
    for name, language, content in BLOCK.findall(PAGE):
        paste(folder / name, language, content)
    return folder


def paste(path, language, content):
    """Writes a new file, or adds and removes the lines marked ``+`` and ``-``."""
    if language == 'diff':
        old, new = (''.join(re.findall(rf'^[ {sign}](.*\n)', content, re.M)) for sign in '-+')
        before = path.read_text()
        assert before.count(old) == 1, f'{path.name} does not contain the lines that the page changes:\n{old}'
        content = before.replace(old, new)
    else:
        assert not path.exists(), f'{path.name} exists already: the page needs another example'
    path.write_text(content)


def commands():
    """The commands of the page, each in one line."""
    return [' '.join(c.split()) for c in re.findall(r'^ {4}((?:python|make) .*)', PAGE.replace('\\\n', ''), re.M)]


def test_the_new_activation_passes_the_contract_and_its_configs_build(copy):
    contract, doctests = (c.removeprefix('python -m pytest ') for c in commands() if 'pytest' in c)
    (copy / 'follow.py').write_text(
        'import pytest\n'
        'from mmengine.config import Config\nfrom mmengine.registry import init_default_scope\n'
        "init_default_scope('mmdet')\n"
        'from mmdet.registry import MODELS\nimport apa_mmdet\nprint(apa_mmdet.__file__)\n'
        "for name in ('tiny_lvis/mask_rcnn_se_r18_smu', 'any_detector/retinanet_r50_smu'):\n"
        "    model = MODELS.build(Config.fromfile(f'configs/{name}.py').model)\n"
        "    print(name, sum(type(m).__name__ == 'SMU' for m in model.modules()))\n"
        f'for arguments in ({contract!r}, {doctests!r}):\n'
        "    assert pytest.main([*arguments.split(), '-q', '-p', 'no:cacheprovider']) == 0\n"
    )
    said = succeed(fork_program(copy / 'follow.py', cwd=copy, PYTHONPATH=str(copy)))
    assert f'{copy}/apa_mmdet/__init__.py' in said
    assert 'mask_rcnn_se_r18_smu 17\n' in said and 'retinanet_r50_smu 49\n' in said
    passed = [int(count) for count in re.findall(r'(\d+) passed', said)]
    assert len(passed) == 2 and passed[0] > 20 and passed[1] == 2
    written = ' '.join(name for name, _, _ in BLOCK.findall(PAGE))
    in_a_copy(copy, f'ruff check {written} && ruff format --check {written}')


@pytest.mark.slow
def test_every_other_command_of_the_page_works(copy):
    for command in commands():
        if 'pytest' not in command and command != 'make lint':  # above
            in_a_copy(copy, command)
    for path in ('activations/SMU.png', 'smu/activations_cpu.csv', 'mask_rcnn_se_r18_smu/epoch_1.pth'):
        assert (copy / 'work_dirs' / path).is_file()
    table = (copy / 'work_dirs/smu/activations_cpu.csv').read_text()
    assert re.findall(r'^(\w+),torch,cpu', table, re.M) == ['SiLU', 'ReLU', 'SMU', 'AconC', 'APALU']
    assert 'failed' not in table


def test_the_benchmark_refuses_types_that_are_not_activations(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    import activations

    for name, reason in (('Nonsense', "activation 'Nonsense' is not registered"), ('ResNet', 'required positional')):
        monkeypatch.setattr(sys, 'argv', ['activations.py', '--device', 'cpu', '--types', name])
        with pytest.raises(SystemExit, match='2'):
            activations.main()
        assert f'error: --types {name}: failed: ' in (line := capsys.readouterr().err.splitlines()[-1])
        assert reason in line

"""What set-up says when it cannot go on. (That it works is shown by these tests running.)"""

import os
import re
import shutil
import subprocess
import sys

import pytest
from helpers.paths import ROOT

from apa_mmdet import compat


def set_up(venv, **env):
    return subprocess.run(
        [ROOT / 'tools/setup/setup_env.sh', venv], env=dict(os.environ, **env), capture_output=True, text=True
    )


@pytest.fixture
def old_python(tmp_path):
    path = tmp_path / 'python3.8'
    path.write_text('#!/bin/sh\n[ "$1" = -V ] && echo Python 3.8.1\nexit 1\n')
    path.chmod(0o755)
    return path


def test_an_old_python_is_named_and_the_way_out_too(tmp_path, old_python):
    run = set_up(tmp_path / 'venv', PYTHON=str(old_python))
    assert run.returncode == 1
    assert (
        f'{old_python} is Python 3.8.1, but the pinned versions need Python 3.11: name one with PYTHON=' in run.stderr
    )
    assert 'run the same command again' in run.stderr


def test_a_failed_install_names_the_step_and_shows_the_log(tmp_path):
    run = set_up(tmp_path / 'venv', TORCH='torch==0.0.0 --no-index')
    assert run.returncode == 1
    assert 'set-up stopped while: installing torch==0.0.0 --no-index' in run.stderr
    assert 'No matching distribution found for torch==0.0.0' in run.stderr
    # and once it is mended, the environment that was begun is used
    again = set_up(tmp_path / 'venv', TORCH='torch==0.0.0 --no-index')
    assert 'creating the environment' in run.stdout and 'creating the environment' not in again.stdout


def test_no_compiler_is_said_before_anything_is_fetched(tmp_path):
    tools = tmp_path / 'bin'
    tools.mkdir()
    for tool in ('bash', 'dirname', 'grep', 'cat', 'mktemp', 'rm', 'tee', 'ls', 'env'):
        (tools / tool).symlink_to(shutil.which(tool))
    venv = tmp_path / 'venv/bin'
    venv.mkdir(parents=True)
    (venv / 'python').write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (venv / 'python').chmod(0o755)
    run = subprocess.run(
        [ROOT / 'tools/setup/build_mmcv.sh', venv.parent],
        capture_output=True,
        text=True,
        env=dict(os.environ, PATH=str(tools), MMCV_CACHE=str(tmp_path / 'cache')),
    )
    assert run.returncode == 1 and 'no g++ found: install a C++17 compiler' in run.stderr


def test_the_pins_lie_in_the_supported_ranges():
    pins = dict(re.findall(r'^([\w-]+)==(\S+)$', (ROOT / 'requirements.txt').read_text(), re.M))
    compat.check_host_versions(pins.__getitem__)
    for package, (first, end) in compat.SUPPORTED.items():
        wanted = f'{package}>={first}' + (f',<{end}' if end else '')
        assert wanted in (ROOT / 'pyproject.toml').read_text(), f'pyproject.toml and compat.py differ on {package}'


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The package as others install it, in a folder of its own: not this repository."""
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'  # building writes into it
    skipped = shutil.ignore_patterns('.git', '.venv', 'data', 'work_dirs', 'build', '*.egg-info', '__pycache__')
    shutil.copytree(ROOT, source, symlinks=True, ignore=skipped)
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '-q']
    options = ['--no-deps', '--no-build-isolation', '--no-index']
    subprocess.run([*pip, 'wheel', *options, '-w', folder, source], check=True)
    subprocess.run([*pip, 'install', *options, '--target', folder / 'site', *folder.glob('*.whl')], check=True)
    return folder / 'site'


def test_the_wheel_carries_what_the_repository_has(wheel):
    mim = wheel / 'apa_mmdet/.mim'
    for name in ('configs', 'tools', 'model-index.yml'):
        ours = [ROOT / name] if (ROOT / name).is_file() else [p for p in (ROOT / name).rglob('*') if p.is_file()]
        for path in ours:
            if '__pycache__' not in path.parts:
                assert (mim / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
    assert (wheel / 'apa_mmdet/ops/backends/cpu_kernels.c').is_file()


@pytest.mark.parametrize('installed', ['wheel', 'editable'])
def test_a_base_of_the_package(wheel, tmp_path, installed):
    """From anywhere, and without a word of warning about its scope."""
    (tmp_path / 'own.py').write_text(
        "_base_ = 'apa_mmdet::lvis/mask_rcnn_se_r50_apa.py'\nmodel = dict(backbone=dict(depth=18, init_cfg=None),"
        'neck=dict(in_channels=[64, 128, 256, 512]))\n'
    )
    (tmp_path / 'build.py').write_text(
        'import apa_mmdet\n'
        'from mmengine.config import Config\nfrom mmengine.registry import init_default_scope\n'
        "cfg = Config.fromfile('own.py')\ninit_default_scope(cfg.default_scope)\n"
        'from mmdet.registry import DATASETS, HOOKS, METRICS, MODELS\n'
        "print(type(MODELS.build(cfg.model).backbone).__name__, cfg.filename and 'from', apa_mmdet.__file__)\n"
        'assert [type(HOOKS.build(hook)).__name__ for hook in cfg.default_hooks.values()]\n'
        'assert cfg.model.roi_head.bbox_head.loss_cls.class_frequency.startswith(apa_mmdet.__path__[0])\n'
    )
    env = dict(os.environ, PYTHONPATH=str(wheel) if installed == 'wheel' else '', PYTHONWARNINGS='ignore')
    run = subprocess.run([sys.executable, 'build.py'], cwd=tmp_path, env=env, capture_output=True, text=True)
    place = wheel if installed == 'wheel' else ROOT
    assert run.stdout == f'SEResNet from {place}/apa_mmdet/__init__.py\n', run.stderr
    assert 'WARNING' not in run.stdout + run.stderr

"""What set-up reports when it fails, and the package as others install it. (These tests run in what it set up.)"""

import os
import re
import shutil
import subprocess
import sys

import pytest
import tomllib
from helpers.paths import ROOT

from apa_mmdet import compat


def set_up(venv, **env):
    return subprocess.run(
        [ROOT / 'tools/setup/setup_env.sh', venv], env=dict(os.environ, **env), capture_output=True, text=True
    )


def executable(path, script):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\n{script}\n')
    path.chmod(0o755)
    return str(path)


def test_an_old_python_is_named_with_the_way_out(tmp_path):
    python = executable(tmp_path / 'python3.8', '[ "$1" = -V ] && echo Python 3.8.1\nexit 1')
    run = set_up(tmp_path / 'venv', PYTHON=python)
    assert run.returncode == 1
    assert f'{python} is Python 3.8.1, but the pinned versions need Python 3.11: name one with PYTHON=' in run.stderr
    assert 'run the same command again' in run.stderr


def test_pips_errors_are_shown_whatever_surrounds_them(tmp_path):
    """With a pip that ends with many warnings after its errors."""
    pip = (
        'case "$*" in\n*install*) echo "ERROR: No matching distribution found for torch"\n'
        'for i in $(seq 200); do echo "WARNING: index $i of the machine\'s pip.conf"; done; exit 1;;\n*import\\ torch*) exit 1;;\nesac'
    )
    executable(tmp_path / 'venv/bin/python', pip)
    run = set_up(tmp_path / 'venv', PYTHON=executable(tmp_path / 'python', ''))
    assert run.returncode == 1
    lines = run.stderr.splitlines()
    assert lines[0].startswith('set-up stopped while: installing torch==')
    assert '  ! ERROR: No matching distribution found for torch' in lines and len(lines) <= 28


@pytest.mark.parametrize(
    'line',
    [
        "nms.cpp:12:9: error: 'THTensor' was not declared in this scope",
        'ops.h:3:10: fatal error: cuda.h: No such file or directory',
        'error: command /usr/bin/g++ failed with exit code 1',
        'RuntimeError: Error compiling objects for extension',
    ],
)
def test_errors_of_the_mmcv_build_are_shown_and_those_of_earlier_steps_are_not(line, tmp_path):
    """With an environment that has everything but mmcv, and whose mmcv download prints ``line`` among others."""
    script = (
        'case "$*" in\n*download*mmcv*) printf "%s\\n" "$FAILS_WITH"; seq 100; exit 1;;\n'
        '*install*) echo "ERROR: an error that the step survived";;\n*"-") echo torch-test;;\n'
        '*import\\ mmcv.ops*) exit 1;;\nesac'
    )
    executable(tmp_path / 'venv/bin/python', script)
    python = executable(tmp_path / 'python', '')
    run = set_up(tmp_path / 'venv', PYTHON=python, MMCV_CACHE=str(tmp_path / 'cache'), FAILS_WITH=line)
    assert run.returncode == 1 and 'set-up stopped while: installing mmcv' in run.stderr
    assert f'  ! {line}' in run.stderr.splitlines() and 'survived' not in run.stderr


@pytest.mark.slow
def test_a_failed_install_continues_in_the_environment_that_was_begun(tmp_path):
    run = set_up(tmp_path / 'venv', TORCH='torch==0.0.0 --no-index')
    assert run.returncode == 1
    assert 'set-up stopped while: installing torch==0.0.0 --no-index' in run.stderr
    assert re.search(r'^  ! ERROR: .*torch==0\.0\.0', run.stderr, re.M)
    again = set_up(tmp_path / 'venv', TORCH='torch==0.0.0 --no-index')
    assert 'creating the environment' in run.stdout and 'creating the environment' not in again.stdout


def test_a_missing_compiler_is_reported_before_anything_is_downloaded(tmp_path):
    tools = tmp_path / 'bin'
    tools.mkdir()
    for tool in ('bash', 'dirname', 'grep', 'cat', 'mktemp', 'rm', 'tee', 'ls', 'env'):
        (tools / tool).symlink_to(shutil.which(tool))
    executable(tmp_path / 'venv/bin/python', f'exec {sys.executable} "$@"')
    run = subprocess.run(
        [ROOT / 'tools/setup/build_mmcv.sh', tmp_path / 'venv'],
        capture_output=True,
        text=True,
        env=dict(os.environ, PATH=str(tools), MMCV_CACHE=str(tmp_path / 'cache')),
    )
    assert run.returncode == 1 and 'no g++ found: install a C++17 compiler' in run.stderr


def test_pinned_versions_are_in_the_supported_ranges():
    pins = dict(re.findall(r'^([\w-]+)==(\S+)$', (ROOT / 'requirements.txt').read_text(), re.M))
    compat.check_host_versions(pins.__getitem__)
    for package, (first, end) in compat.SUPPORTED.items():
        wanted = f'{package}>={first}' + (f',<{end}' if end else '')
        assert wanted in (ROOT / 'pyproject.toml').read_text(), f'pyproject.toml and compat.py differ on {package}'
    for package, versions in compat.EXCLUDED.items():
        wanted = package + ','.join(f'!={version}' for version in versions)
        assert wanted in (ROOT / 'pyproject.toml').read_text(), f'pyproject.toml and compat.py differ on {package}'


def test_package_data_link_to_configs_tools_and_kernels():
    for name in ('configs', 'tools', 'model-index.yml'):
        assert (ROOT / 'apa_mmdet/.mim' / name).resolve() == ROOT / name
    packaged = tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']['setuptools']['package-data']
    assert '.mim/**/*' in packaged['apa_mmdet'] and '*.c' in packaged['apa_mmdet.ops.backends']


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The package as others install it, in a folder of its own outside this repository."""
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'  # building writes into it
    skipped = shutil.ignore_patterns('.git', '.venv', 'data', 'work_dirs', 'build', '*.egg-info', '__pycache__')
    shutil.copytree(ROOT, source, symlinks=True, ignore=skipped)
    pip = [sys.executable, '-m', 'pip', '--isolated', '--disable-pip-version-check', '-q']
    options = ['--no-deps', '--no-build-isolation', '--no-index']
    env = dict(os.environ, PIP_CONFIG_FILE=os.devnull)  # not the machine's settings
    subprocess.run([*pip, 'wheel', *options, '-w', folder, source], check=True, env=env)
    subprocess.run([*pip, 'install', *options, '--target', folder / 'site', *folder.glob('*.whl')], check=True, env=env)
    return folder / 'site'


@pytest.mark.slow
def test_the_wheel_carries_configs_tools_and_kernels(wheel):
    mim = wheel / 'apa_mmdet/.mim'
    for name in ('configs', 'tools', 'model-index.yml'):
        ours = [ROOT / name] if (ROOT / name).is_file() else [p for p in (ROOT / name).rglob('*') if p.is_file()]
        for path in ours:
            if '__pycache__' not in path.parts:
                assert (mim / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
    assert (wheel / 'apa_mmdet/ops/backends/cpu_kernels.c').is_file()


@pytest.mark.parametrize('installed', [pytest.param('wheel', marks=pytest.mark.slow), 'checkout'])
def test_a_config_of_the_package_is_a_base_from_anywhere(installed, tmp_path, request):
    place = request.getfixturevalue('wheel') if installed == 'wheel' else ROOT
    (tmp_path / 'own.py').write_text(
        "_base_ = 'apa_mmdet::lvis/mask_rcnn_se_r50_apa.py'\nmodel = dict(backbone=dict(depth=18, init_cfg=None),"
        'neck=dict(in_channels=[64, 128, 256, 512]))\n'
    )
    (tmp_path / 'build.py').write_text(
        'import apa_mmdet\n'
        'from mmengine.config import Config\nfrom mmengine.registry import init_default_scope\n'
        'from mmengine.visualization import Visualizer\n'
        "cfg = Config.fromfile('own.py')\ninit_default_scope(cfg.default_scope)\n"
        'from mmdet.registry import HOOKS, MODELS\n'
        "Visualizer.get_instance('of the visualization hook')\n"
        'for hook in cfg.default_hooks.values():\n    HOOKS.build(hook)\n'
        'assert cfg.model.roi_head.bbox_head.loss_cls.class_frequency.startswith(apa_mmdet.__path__[0])\n'
        "print(type(MODELS.build(cfg.model).backbone).__name__, 'from', apa_mmdet.__file__)\n"
    )
    env = dict(os.environ, PYTHONPATH=str(place), PYTHONWARNINGS='ignore')
    run = subprocess.run([sys.executable, 'build.py'], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == f'SEResNet from {place}/apa_mmdet/__init__.py\n'
    assert 'WARNING' not in run.stderr

"""What set-up reports when it fails. (These tests run in what it set up.)"""

import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
from helpers.paths import ROOT
from packaging.utils import canonicalize_name

ENVIRONMENTS = sorted((ROOT / 'tools/setup/environments').glob('*.txt'))


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


def test_an_environment_with_an_older_python_is_named_and_left_as_it_is(tmp_path):
    script = 'case "$*" in\n-V) echo Python 3.11.9;;\n*version_info*"3, 13"*) exit 1;;\nesac'
    executable(tmp_path / 'venv/bin/python', script)
    (tmp_path / 'venv/.environment').write_text('openmmlab')
    run = subprocess.run(
        [ROOT / 'tools/setup/setup_env.sh', tmp_path / 'venv', 'newest'], capture_output=True, text=True
    )
    line = f'{tmp_path}/venv has Python 3.11.9, but the environment newest needs Python 3.13: remove the folder, or'
    assert run.returncode == 1 and line in run.stderr
    assert (tmp_path / 'venv/.environment').read_text() == 'openmmlab'
    assert not (tmp_path / 'venv/requirements.txt').exists()


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
    run = install_mmcv(tmp_path, PATH=str(tools), PIP_NO_INDEX='1')
    assert run.returncode == 1 and 'no g++ found: install a C++20 compiler' in run.stderr
    assert 'Collecting' not in run.stderr


def install_mmcv(tmp_path, build='torch-test-cpu', **env):
    """Runs build_mmcv.sh for a virtual environment that lends its packages, of which it may install over none."""
    executable(tmp_path / 'venv/bin/python', f'[ "$*" = - ] && echo {build} || exec {sys.executable} "$@"')
    (tmp_path / 'venv/requirements.txt').write_text('mmcv==2.1.0\n')
    env = dict(os.environ, MMCV_CACHE=str(tmp_path / 'cache'), PIP_TARGET=str(tmp_path / 'site'), **env)
    command = [ROOT / 'tools/setup/build_mmcv.sh', tmp_path / 'venv']
    return subprocess.run(command, capture_output=True, text=True, env=env)


def wheel_of_mmcv(folder, ops):
    """Writes a wheel of mmcv 2.1.0 whose operators are the text ``ops``."""
    files = {
        'mmcv/__init__.py': '',
        'mmcv/ops.py': ops,
        'mmcv-2.1.0.dist-info/METADATA': 'Metadata-Version: 2.1\nName: mmcv\nVersion: 2.1.0\n',
        'mmcv-2.1.0.dist-info/WHEEL': 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
    }
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / 'mmcv-2.1.0-py3-none-any.whl', 'w') as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
        wheel.writestr('mmcv-2.1.0.dist-info/RECORD', ''.join(f'{name},,\n' for name in files))
    return str(folder)


def test_a_prebuilt_wheel_is_taken(tmp_path):
    wheels = wheel_of_mmcv(tmp_path / 'wheels', 'fits = True')
    env = dict(PYTHONPATH=str(tmp_path / 'site'), PIP_NO_INDEX='1', MMCV_WHEELS=wheels)
    run = install_mmcv(tmp_path, **env)
    assert run.returncode == 0 and run.stdout == f'               prebuilt: mmcv==2.1.0 of {wheels}\n'
    assert (tmp_path / 'site/mmcv/ops.py').read_text() == 'fits = True' and not (tmp_path / 'cache').exists()
    again = install_mmcv(tmp_path, **env)
    assert again.returncode == 0 and again.stdout == '', 'an installed mmcv is installed again'


@pytest.mark.parametrize(
    'build, ops',
    [
        pytest.param(
            'torch-test-cpu',
            'raise ImportError("undefined symbol: _ZN3c105ErrorC2E")',
            id='of another torch',
            marks=pytest.mark.slow,
        ),
        pytest.param(
            'torch-test-cuda-sm9.0',
            'get_compiling_cuda_version = lambda: "not available"',
            id='without CUDA',
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_prebuilt_wheel_that_does_not_fit_gives_way_to_a_build(build, ops, tmp_path):
    wheels = wheel_of_mmcv(tmp_path / 'wheels', ops)
    env = dict(PYTHONPATH=str(tmp_path / 'site'), PIP_NO_INDEX='1', MMCV_WHEELS=wheels)
    run = install_mmcv(tmp_path, build, **env)
    assert 'the prebuilt mmcv==2.1.0 does not fit this torch' in run.stdout and 'building mmcv==2.1.0' in run.stdout
    assert run.returncode == 1 and 'No matching distribution found for mmcv==2.1.0' in run.stderr  # no source here


def environment(name, tmp_path):
    """Returns the pins of an environment, as set-up writes them before it looks for an interpreter."""
    run = subprocess.run(
        [ROOT / 'tools/setup/setup_env.sh', tmp_path / 'venv', name],
        env=dict(os.environ, PYTHON='false'),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1, run.stderr
    lines = (tmp_path / 'venv/requirements.txt').read_text().splitlines()
    pinned = {canonicalize_name(name): version for name, version in (line.split('==') for line in lines)}
    assert len(pinned) == len(lines), 'a package is pinned twice'
    return pinned


def pins(file):
    found = re.findall(r'^([\w-]+)==(\S+)$', file.read_text(), re.M)
    return {canonicalize_name(name): version for name, version in found}


@pytest.mark.parametrize('file', ENVIRONMENTS, ids=lambda file: file.stem)
def test_an_environment_is_its_difference_from_the_pinned_packages(file, tmp_path):
    defaults, differences = pins(ROOT / 'requirements.txt'), pins(file)
    omitted = set(' '.join(re.findall(r'^# without (.*)', file.read_text(), re.M)).split())
    expected = {name: version for name, version in defaults.items() if name not in omitted} | differences
    assert environment(file.stem, tmp_path) == expected
    assert not {name for name, version in differences.items() if defaults.get(name) == version}, 'no difference'
    assert not {name for name in differences if name in omitted}


@pytest.mark.parametrize('file', ENVIRONMENTS, ids=lambda file: file.stem)
def test_classification_adds_what_an_environment_lacks(file, tmp_path):
    """`make test-classification` installs this list beside it: OneDL's has its own MMPretrain."""
    ours = environment(file.stem, tmp_path)
    added = pins(tmp_path / 'venv/classification.txt')
    assert added.items() <= pins(ROOT / 'tools/setup/classification.txt').items() and not added.keys() & ours.keys()
    assert 'torchvision' in added and ('mmpretrain' in added) != ('onedl-mmpretrain' in ours)
    assert {'einops', 'mat4py'} <= added.keys() | ours.keys()


def test_an_environment_is_kept_until_another_is_named(tmp_path):
    assert 'onedl-mmcv' in environment('onedl', tmp_path)
    assert 'onedl-mmcv' in environment('', tmp_path)
    assert 'mmcv' in environment('openmmlab', tmp_path)


def test_an_unknown_environment_is_named_with_the_known_ones(tmp_path):
    run = subprocess.run(['make', 'setup', f'VENV={tmp_path}', 'HOST=mmcv'], cwd=ROOT, capture_output=True, text=True)
    assert 'there is no environment mmcv, but: newest oldest onedl openmmlab' in run.stderr


def test_hosts_of_the_shell_are_not_environments():
    """conda exports HOST=x86_64-conda-linux-gnu."""
    env = dict(os.environ, HOST='x86_64-conda-linux-gnu', ENVIRONMENT='production')
    run = subprocess.run(['make', '-Bn', 'setup', 'VENV=v'], cwd=ROOT, env=env, capture_output=True, text=True)
    assert 'setup_env.sh v \n' in run.stdout

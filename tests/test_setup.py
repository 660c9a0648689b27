"""What set-up reports when it fails. (These tests run in what it set up.)"""

import os
import re
import shutil
import subprocess
import sys

import pytest
from helpers.paths import ROOT


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

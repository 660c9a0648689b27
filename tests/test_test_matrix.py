"""`make test-matrix`, in a small repository of its own whose set-up lends this environment."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from helpers.paths import ROOT

SET_UP = """#!/bin/sh
echo "set-up of $2"
case $2 in ancient) exit 3;; broken) exit 1;; esac
mkdir -p $1/bin
printf '#!/bin/sh\\nexec %s "$@"\\n' {python} >$1/bin/python
chmod +x $1/bin/python
"""
MAKEFILE = (
    'test-detection:\n\t$(VENV)/bin/python -m pytest -q -p no:xdist -p no:cov -p no:hypothesispytest tests $(ARGS)\n'
)
TESTS = """import pytest

def test_one(): pass

def test_two(): pass

@pytest.mark.skip
def test_three(): pass
"""
HEAD = '| environment | Python | torch | numpy | mmengine | mmcv | mmdet | passed | failed | skipped | date |\n'
PAGE = f'# Page\n\n{HEAD}{"|---" * 11}|\n| small |{" – |" * 10}\n\nafter\n'


@pytest.fixture
def matrix(tmp_path):
    """Returns a function that runs the environments and returns the exit status, the output and the table's rows."""
    for folder in ('tools/setup', 'tests', 'docs'):
        (tmp_path / folder).mkdir(parents=True)
    script = shutil.copy(ROOT / 'tools/setup/test_matrix.py', tmp_path / 'tools/setup')
    shutil.copy(ROOT / '.gitignore', tmp_path)  # without which what Python compiles counts as sources
    set_up = tmp_path / 'tools/setup/setup_env.sh'
    set_up.write_text(SET_UP.replace('{python}', sys.executable))
    set_up.chmod(0o755)
    (tmp_path / 'Makefile').write_text(MAKEFILE)
    (tmp_path / 'tests/test_small.py').write_text(TESTS)
    page = tmp_path / 'docs/compatibility.md'
    page.write_text(PAGE)
    subprocess.run(['git', 'init', '-q', tmp_path], check=True)

    def run(*args):
        command = [sys.executable, script, tmp_path / 'envs', *args]
        env = dict(os.environ, PYTHONPATH='', PYTEST_ADDOPTS='')
        run = subprocess.run(command, capture_output=True, text=True, env=env)
        assert not run.stderr, run.stderr
        text = page.read_text()
        assert text.startswith(f'# Page\n\n{HEAD}') and text.endswith('|\n\nafter\n')
        rows = [re.split(r' *\| *', row)[1:-1] for row in text.splitlines() if row.startswith('| ')]
        return run.returncode, run.stdout, {row[0]: row[1:] for row in rows[1:]}

    return run


def test_the_table_has_versions_and_counts_and_nothing_runs_twice(matrix, tmp_path):
    status, _, rows = matrix('small')
    assert status == 0
    python, torch, *_, mmdet, passed, failed, skipped, _ = rows['small']
    assert python == '.'.join(map(str, sys.version_info[:3])) and re.match(r'\d', torch) and re.search(r'\d', mmdet)
    assert (passed, failed, skipped) == ('2', '0', '1')
    log = tmp_path / 'envs/small.log'
    assert 'set-up of small' in log.read_text() and '2 passed, 1 skipped' in log.read_text()
    log.unlink()
    status, output, again = matrix('small')
    assert status == 0 and again == rows and 'ran before with these sources: passed' in output and not log.exists()
    with (tmp_path / 'tests/test_small.py').open('a') as file:
        file.write('\ndef test_four(): assert False\n')
    status, _, rows = matrix('small')
    assert status == 1 and rows['small'][6:9] == ['2', '1', '1'] and log.exists()


def test_what_cannot_be_set_up_is_in_the_table_and_the_others_go_on(matrix):
    status, _, rows = matrix('ancient')
    assert status == 0 and rows['ancient'][6:9] == ['not run', '–', '–'] and 'small' in rows
    status, _, rows = matrix('broken', 'ancient')
    assert status == 1 and rows['broken'][6] == 'set-up failed' and rows['ancient'][6] == 'not run'


def test_the_page_has_a_row_for_every_environment():
    page = (ROOT / 'docs/compatibility.md').read_text()
    rows = re.findall(r'^\| (\w+) \|', page.split(HEAD)[1], re.M)
    assert sorted(rows) == sorted(file.stem for file in (ROOT / 'tools/setup/environments').glob('*.txt'))

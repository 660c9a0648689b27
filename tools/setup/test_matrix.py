#!/usr/bin/env python3
"""Runs the tests in several environments and writes a table of the results (`make test-matrix`).

    tools/setup/test_matrix.py FOLDER ENVIRONMENT... [--again] [--tests PYTEST_ARGUMENTS]

For each file of tools/setup/environments/ it sets up FOLDER/ENVIRONMENT and runs `make test-detection` there; the
output goes to FOLDER/ENVIRONMENT.log. It needs nothing but Python's standard library. What has run with these sources
is not run again, so after an interruption the same command continues. The exit status is 1 if a test or a set-up
failed.
"""

import argparse
import datetime
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ('apa_mmdet', 'configs', 'tests', 'tools', 'Makefile', 'pyproject.toml', 'requirements.txt')
NO_PYTHON = 3  # setup_env.sh's exit status where the interpreter is missing
VERSIONS = """
import importlib.metadata, json, platform
names = {d.metadata['Name'].lower() for d in importlib.metadata.distributions()}
def version(*candidates):
    return next((f'{n} {importlib.metadata.version(n)}' for n in candidates if n in names), '–')
print(json.dumps({
    'Python': platform.python_version(),
    **{name: version(name).split(' ')[-1] for name in ('torch', 'numpy')},
    **{module: version(module, other).removeprefix(module + ' ') for module, other in (
        ('mmengine', 'onedl-mmengine'), ('mmcv', 'onedl-mmcv'), ('mmdet', 'onedl-mmdetection'))},
}))
"""
COLUMNS = (
    'environment',
    'Python',
    'torch',
    'numpy',
    'mmengine',
    'mmcv',
    'mmdet',
    'passed',
    'failed',
    'skipped',
    'date',
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='where the environments and their logs are kept')
    parser.add_argument('environments', nargs='+', help='names of files in tools/setup/environments')
    parser.add_argument(
        '--table', type=Path, default=ROOT / 'docs/compatibility.md', help='page whose table is updated'
    )
    parser.add_argument('--again', action='store_true', help='run also what has run with these sources')
    parser.add_argument(
        '--tests', default='', help='arguments of pytest, for a part of the tests; the table says which'
    )
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    results = {}
    for name in args.environments:
        results[name] = run(name, args.folder.resolve(), args.tests, args.again)
        args.table.write_text(update(args.table.read_text(), results[name]))
    return any(result['status'] in ('set-up failed', 'tests failed') for result in results.values())


def run(name, folder, tests, again):
    """Returns the row of an environment, after its set-up and its tests or from an earlier run of the same sources."""
    record = folder / f'{name}.json'
    key = {'sources': sources(), 'tests': tests}
    if record.exists() and not again:
        result = json.loads(record.read_text())
        if result.pop('key') == key:
            print(f'{name}: ran before with these sources: {result["status"]}')
            return result
    log, junit = folder / f'{name}.log', folder / f'{name}.xml'
    junit.unlink(missing_ok=True)
    print(f'{name}: set-up and tests, output in {log}', flush=True)
    result = {'environment': name, 'date': datetime.date.today().isoformat(), 'part': tests}
    with log.open('w') as output:
        status = call([ROOT / 'tools/setup/setup_env.sh', folder / name, name], output)
        if status:
            result['status'] = 'not run' if status == NO_PYTHON else 'set-up failed'
        else:
            (folder / name / '.ready').touch()
            python = folder / name / 'bin/python'
            result |= json.loads(subprocess.check_output([python, '-c', VERSIONS], text=True))
            arguments = f'ARGS=--junit-xml={shlex.quote(str(junit))} {tests}'
            call(['make', 'test-detection', f'VENV={folder / name}', arguments], output)
            result |= counts(junit)
    print(f'{name}: {result["status"]}', {key: result[key] for key in ('passed', 'failed', 'skipped') if key in result})
    if result['status'] in ('passed', 'tests failed'):
        record.write_text(json.dumps({'key': key, **result}, indent=1))
    return result


def call(command, output):
    env = dict(os.environ, PIP_NO_CACHE_DIR='1', CUDA_VISIBLE_DEVICES=os.environ.get('CUDA_VISIBLE_DEVICES', ''))
    return subprocess.run(command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output).returncode


def counts(junit):
    """Returns the numbers of tests in pytest's report, and a status; a run that wrote none failed."""
    if not junit.exists():
        return {'status': 'tests failed', 'passed': 0, 'failed': 'no report', 'skipped': 0}
    (suite,) = ElementTree.parse(junit).getroot().iter('testsuite')
    total, *bad, skipped = (int(suite.get(name)) for name in ('tests', 'failures', 'errors', 'skipped'))
    failed = sum(bad)
    status = 'tests failed' if failed or not total else 'passed'
    return {'status': status, 'passed': total - failed - skipped, 'failed': failed, 'skipped': skipped}


def sources():
    """Returns a hash of the files that decide a result, committed or not."""
    files = subprocess.check_output(['git', 'ls-files', '-coz', '--exclude-standard', '--', *SOURCES], cwd=ROOT)
    digest = hashlib.sha256()
    for path in sorted(filter(None, files.decode().split('\0'))):
        if (ROOT / path).is_file():
            digest.update(path.encode() + b'\0' + hashlib.sha256((ROOT / path).read_bytes()).digest())
    return digest.hexdigest()


def update(page, result):
    """Returns the page with the environment's row of its table, which starts with COLUMNS, replaced or added."""
    cells = {column: str(result.get(column, '–')) for column in COLUMNS}
    if result['status'] not in ('passed', 'tests failed'):
        cells['passed'] = result['status']
    if result['part']:
        cells['passed'] += f' of `{result["part"]}`'
    row = '| ' + ' | '.join(cells.values()) + ' |'
    head = '| ' + ' | '.join(COLUMNS) + ' |'
    before, table, after = re.split(rf'({re.escape(head)}\n(?:\|.*\n)+)', page)
    lines = table.splitlines()
    same = [i for i, line in enumerate(lines) if line.startswith(f'| {result["environment"]} |')]
    lines[same[0] if same else len(lines) :] = [row, *lines[same[0] + 1 :]] if same else [row]
    return before + '\n'.join(lines) + '\n' + after


if __name__ == '__main__':
    sys.exit(main())

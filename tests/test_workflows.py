"""What runs on a public host is what the Makefile, .ci/run and tools/setup know."""

import re

import pytest
import yaml
from helpers.paths import ROOT

GITHUB = ROOT / '.github'
WORKFLOW = yaml.load((GITHUB / 'workflows/tests.yml').read_text(), yaml.BaseLoader)  # in which `on` is a text
SET_UP = yaml.load((GITHUB / 'actions/set-up/action.yml').read_text(), yaml.BaseLoader)
STEPS = {name: job['steps'] for name, job in WORKFLOW['jobs'].items()} | {'set-up': SET_UP['runs']['steps']}


def targets(script):
    return re.findall(r'\bmake ([\w-]+)', script)


def runs(job):
    """The make targets of a job, without those that are for one environment of the matrix."""
    return [target for step in STEPS[job] if 'run' in step for target in targets(step['run'])]


def environments():
    """The Python that each file of tools/setup/environments asks for."""
    files = (ROOT / 'tools/setup/environments').glob('*.txt')
    named = {path.stem: re.search(r'^# python (\S+)', path.read_text(), re.M) for path in files}
    return {name: python.group(1) if python else '3.11' for name, python in named.items()}


@pytest.mark.parametrize('job', STEPS)
def test_every_step_calls_a_target_of_the_makefile(job):
    known = re.search(r'^\.PHONY: (.*)', (ROOT / 'Makefile').read_text(), re.M).group(1).split()
    assert runs(job) and set(runs(job)) <= set(known)
    assert all(step['run'].startswith('make ') for step in STEPS[job] if 'run' in step)


def test_a_change_is_tested_by_the_targets_of_ci_run():
    wanted = targets((ROOT / '.ci/run').read_text())
    parts = re.search(r'^test: (.*)', (ROOT / 'Makefile').read_text(), re.M).group(1).split()
    assert wanted == ['lint', 'test'] and runs('test') == ['lint', *parts]
    assert {'push', 'pull_request'} <= WORKFLOW['on'].keys() and 'if' not in WORKFLOW['jobs']['test']
    everywhere = [step['run'].split()[1] for step in STEPS['test'] if 'run' in step and 'if' not in step]
    assert everywhere == parts[:1] == ['test-detection']  # the others in the pinned environment only


def test_the_matrix_has_every_environment_with_its_python():
    matrix = WORKFLOW['jobs']['test']['strategy']['matrix']['include']
    assert {row['environment']: row['python'] for row in matrix} == environments()
    default = {name: entry['default'] for name, entry in SET_UP['inputs'].items()}
    assert default in matrix and f"matrix.environment == '{default['environment']}'" in str(STEPS['test'])


def test_slow_tests_run_at_night():
    assert runs('slow') == ['test-slow'] and WORKFLOW['on']['schedule']
    assert "github.event_name == 'schedule'" in WORKFLOW['jobs']['slow']['if']


def test_what_set_up_builds_is_cached_where_set_up_keeps_it():
    (cache,) = [step['with'] for step in STEPS['set-up'] if step.get('uses', '').startswith('actions/cache@')]
    assert cache['path'] == '~/.cache/apa_mmdet'
    assert '${XDG_CACHE_HOME:-$HOME/.cache}/apa_mmdet' in (ROOT / 'tools/setup/build_mmcv.sh').read_text()
    for path in re.findall(r"'([^']+)'", cache['key']):
        assert list(ROOT.glob(path)), path


def test_the_workflow_gets_no_more_rights_than_it_needs():
    assert WORKFLOW['permissions'] == {'contents': 'read'}
    assert all(
        '@v' in step['uses'] or step['uses'].startswith('./')
        for steps in STEPS.values()
        for step in steps
        if 'uses' in step
    )

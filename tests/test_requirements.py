"""The lists of pinned packages are complete and agree with each other."""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
import yaml
from helpers.paths import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

STAND_IN = {'opencv-python'}  # opencv-python-headless is installed instead


# all pins of an environment that differs from requirements.txt, where set-up keeps them
OF_ENVIRONMENT = Path(sys.prefix) / 'requirements.txt'


def pins(file):
    path = OF_ENVIRONMENT if file == 'requirements.txt' and OF_ENVIRONMENT.exists() else ROOT / file
    found = re.findall(r'^([\w-]+)==(\S+)$', path.read_text(), re.M)
    return {canonicalize_name(name): version for name, version in found}


def dependencies(package):
    """Names of the packages that an installed package requires here, without its extras."""
    try:
        wanted = map(Requirement, requires(package) or [])
    except PackageNotFoundError:  # docs/requirements.txt is installed by `make docs` alone
        return set()
    return {canonicalize_name(r.name) for r in wanted if r.marker is None or r.marker.evaluate({'extra': ''})}


def from_torch():
    """The packages that pip installs with torch."""
    found, new = set(), {'torch'}
    while new:
        found |= new
        new = set().union(*map(dependencies, new)) - found
    return found


@pytest.mark.parametrize('file', ['requirements.txt', 'docs/requirements.txt'])
def test_every_dependency_of_a_pinned_package_is_pinned(file):
    known = {*pins('requirements.txt'), *pins('docs/requirements.txt' if 'docs' in file else file), *from_torch()}
    missing = {name: dependencies(name) - known for name in pins(file) if name not in from_torch()}
    assert {name: rest - STAND_IN for name, rest in missing.items() if rest - STAND_IN} == {}


def test_pip_finds_nothing_missing_but_what_the_headless_opencv_stands_in_for():
    run = subprocess.run([sys.executable, '-m', 'pip', 'check'], capture_output=True, text=True)
    lines = [line for line in run.stdout.splitlines() if line != 'No broken requirements found.']
    assert [line for line in lines if not re.search(f' requires ({"|".join(STAND_IN)})[ ,]', line)] == [], run.stdout


def test_no_package_is_pinned_to_two_versions():
    ours, docs = pins('requirements.txt'), pins('docs/requirements.txt')
    assert {name: (ours[name], docs[name]) for name in ours.keys() & docs.keys() if ours[name] != docs[name]} == {}


def test_pre_commit_runs_the_pinned_ruff():
    (repo,) = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos']
    versions = {
        dependency for hook in repo['hooks'] for dependency in hook['additional_dependencies'] if 'ruff' in dependency
    }
    assert versions == {f'ruff=={pins("requirements.txt")["ruff"]}'}

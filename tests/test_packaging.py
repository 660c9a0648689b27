"""The package as others install it: its bounds, what wheel and source distribution carry, both in environments of their own."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path

import pytest
from helpers.paths import ROOT
from packaging.requirements import Requirement

from apa_mmdet import compat
from apa_mmdet.version import __version__

try:
    import tomllib
except ModuleNotFoundError:  # before Python 3.11
    import tomli as tomllib

METADATA = tomllib.loads((ROOT / 'pyproject.toml').read_text())
ENVIRONMENTS = sorted(path.stem for path in (ROOT / 'tools/setup/environments').glob('*.txt'))


# ---------------------------------------------------------------- bounds


def pins(path):
    return dict(re.findall(r'^([\w-]+)==([^\s;]+)', path.read_text(), re.M))


@pytest.mark.parametrize('environment', ['requirements', *ENVIRONMENTS])
def test_pinned_versions_are_in_the_supported_ranges(environment):
    own = {} if environment == 'requirements' else pins(ROOT / f'tools/setup/environments/{environment}.txt')
    versions = {**pins(ROOT / 'requirements.txt'), **own}
    host = compat.HOSTS['onedl' if 'onedl-mmdetection' in own else 'openmmlab']
    compat.check_host_versions(lambda module: versions[host[module][0] if module in host else module])


def test_pyproject_and_compat_have_the_same_bounds():
    project = METADATA['project']
    base = {requirement.name: requirement for requirement in map(Requirement, project['dependencies'])}
    assert not {name for host in compat.HOSTS.values() for name, *_ in host.values()} & base.keys()
    assert str(base['torch'].specifier) == f'>={compat.TORCH[0]}' and compat.TORCH[1] is None
    for package, versions in compat.EXCLUDED.items():
        assert {str(specifier) for specifier in base[package].specifier} == {f'!={version}' for version in versions}
    for host, modules in compat.HOSTS.items():
        extra = set(project['optional-dependencies'][host])
        assert extra == {f'{name}>={first},<{end}' for name, first, end in modules.values()}


def test_dev_has_every_extra_for_developers():
    extras = METADATA['project']['optional-dependencies']
    (dev,) = map(Requirement, extras['dev'])
    assert dev.extras == {'docs', 'lint', 'tests'} <= extras.keys()


def test_setup_py_is_one_call():
    code = (ROOT / 'setup.py').read_text()
    assert code.split('"""')[2].split() == ['from', 'setuptools', 'import', 'setup', 'setup()']


# ---------------------------------------------------------------- wheel and source distribution


def test_package_data_link_to_configs_tools_and_kernels():
    for name in ('configs', 'tools', 'model-index.yml'):
        assert (ROOT / 'apa_mmdet/.mim' / name).resolve() == ROOT / name
    packaged = METADATA['tool']['setuptools']['package-data']
    assert '.mim/**/*' in packaged['apa_mmdet'] and '*.c' in packaged['apa_mmdet.ops.backends']


PIP = [sys.executable, '-m', 'pip', '--isolated', '--disable-pip-version-check', '-q']
OFFLINE = ['--no-deps', '--no-build-isolation', '--no-index']


def run(*command, **options):
    env = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    env.update(
        PIP_CONFIG_FILE=os.devnull, PYTHONWARNINGS='ignore', **options.pop('env', {})
    )  # not the machine's settings
    done = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True, **options)
    assert done.returncode == 0, f'{done.args}\n{done.stdout[-3000:]}{done.stderr[-3000:]}'
    return done


@pytest.fixture(scope='module')
def distributions(tmp_path_factory):
    """A folder outside this repository with the source distribution, unpacked, and a wheel that is built of it."""
    folder = tmp_path_factory.mktemp('distributions')
    checkout = folder / 'checkout'  # building writes into it
    shutil.copytree(ROOT, checkout, symlinks=True, ignore=_not_of_the_repository)
    run(sys.executable, 'setup.py', '-q', 'sdist', '--dist-dir', folder, cwd=checkout)
    source = folder / f'apa_mmdet-{__version__}.tar.gz'
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter='data')
    run(*PIP, 'wheel', *OFFLINE, '-w', folder, source)
    return folder


def _not_of_the_repository(folder, names):
    """What .gitignore names."""
    of_root = (
        '.git',
        '.venv*',
        '.*cache',
        'build',
        'data',
        'dist',
        'gpu_bundle',
        'outputs',
        'pretrained',
        'site',
        'work_dirs',
    )
    patterns = ('__pycache__', '*.egg-info', *(of_root if Path(folder) == ROOT else ()))
    return shutil.ignore_patterns(*patterns)(folder, names)


@pytest.fixture(scope='module')
def wheel(distributions):
    (path,) = distributions.glob('*.whl')
    return path


@pytest.fixture(scope='module')
def empty(wheel, tmp_path_factory):
    """The interpreter of an environment with nothing but the wheel."""
    folder = tmp_path_factory.mktemp('empty')
    venv.create(folder)
    run(*PIP, '--python', folder, 'install', *OFFLINE, wheel)
    return folder / 'bin/python'


@pytest.fixture(scope='module')
def beside_the_host(wheel, tmp_path_factory):
    """The interpreter of an environment with the wheel and the packages of this one, but not its apa_mmdet."""
    folder = tmp_path_factory.mktemp('host')
    venv.create(folder)
    run(*PIP, '--python', folder, 'install', *OFFLINE, wheel)
    (site,) = folder.glob('lib/python*/site-packages')
    (site / 'host.pth').write_text(sysconfig.get_path('purelib'))  # whose own .pth files are not read
    return folder / 'bin/python'


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment(empty, tmp_path):
    (tmp_path / 'names.py').write_text(
        'import importlib.metadata, apa_mmdet\n'
        "assert apa_mmdet.__version__ == importlib.metadata.version('apa_mmdet')\n"
        'from apa_mmdet.checkpoint import convert_official_state_dict\n'
        'print(apa_mmdet.__version__, convert_official_state_dict(dict(a=1)))\n'
    )
    assert run(empty, 'names.py', cwd=tmp_path).stdout == f"{__version__} {{'a': 1}}\n"


@pytest.mark.slow
def test_the_wheel_carries_configs_tools_and_kernels(beside_the_host):
    (package,) = beside_the_host.parents[1].glob('lib/python*/site-packages/apa_mmdet')
    mim = package / '.mim'
    for name in ('configs', 'tools', 'model-index.yml'):
        ours = [ROOT / name] if (ROOT / name).is_file() else [p for p in (ROOT / name).rglob('*') if p.is_file()]
        for path in ours:
            if '__pycache__' not in path.parts:
                assert (mim / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
    assert (package / 'ops/backends/cpu_kernels.c').is_file()


@pytest.mark.slow
def test_the_source_distribution_carries_the_repository(distributions):
    source = distributions / f'apa_mmdet-{__version__}'
    tracked = run('git', 'ls-files', cwd=ROOT).stdout.splitlines() if (ROOT / '.git').exists() else []
    missing = [path for path in tracked if not (source / path).exists()]
    assert missing == ['.gitignore'] * bool(tracked)


@pytest.mark.slow
def test_the_source_distribution_runs_its_tests(distributions, beside_the_host):
    source = distributions / f'apa_mmdet-{__version__}'
    tests = ['tests/test_ops/test_reference.py', 'tests/test_ops/test_acon.py', 'tests/test_structures']
    done = run(beside_the_host, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', *tests, cwd=source)
    assert re.search(r'\d\d passed', done.stdout)


@pytest.mark.parametrize('installed', [pytest.param('wheel', marks=pytest.mark.slow), 'checkout'])
def test_a_config_of_the_package_is_a_base_from_anywhere(installed, tmp_path, request):
    python, place, env = sys.executable, ROOT, dict(PYTHONPATH=str(ROOT))
    if installed == 'wheel':
        python = request.getfixturevalue('beside_the_host')
        (place,), env = python.parents[1].glob('lib/python*/site-packages'), {}
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
    done = run(python, 'build.py', cwd=tmp_path, env=env)
    assert done.stdout.splitlines()[-1] == f'SEResNet from {place}/apa_mmdet/__init__.py'
    assert 'WARNING' not in done.stderr

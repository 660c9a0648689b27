"""Host versions, and fixes of what is broken in the host: each fixes that and nothing else."""

import importlib.machinery
import importlib.metadata
import json
import pickle
import re
import sys

import lvis.eval
import numpy as np
import pytest
import torch
from helpers.payloads import Does, leaves_a_mark, reads_its_own_checkpoints
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader, load_from_local

from apa_mmdet import compat
from apa_mmdet.checkpoint.io import load_as_data


def test_lvis_has_np_float_and_numpy_is_left_alone():
    assert lvis.eval.np.float is float
    assert lvis.eval.np.cumsum is np.cumsum and lvis.eval.np.ndarray is np.ndarray
    assert not hasattr(np, 'float')


def test_lvis_without_the_fault_is_not_patched(monkeypatch):
    monkeypatch.setattr(lvis.eval, 'np', np)
    monkeypatch.setattr(compat.inspect, 'getsource', lambda module: 'x = np.float64(0)')
    compat.restore_np_float_for_lvis()
    assert lvis.eval.np is np


def test_lvis_reads_images_without_annotations(tmp_path):
    for content in (dict(images=[dict(id=7)], categories=[]), dict(images=[dict(id=7)], categories=[], annotations=[])):
        (tmp_path / 'a.json').write_text(json.dumps(content))
        index = lvis.LVIS(str(tmp_path / 'a.json'))
        assert list(index.imgs) == [7] and index.dataset == dict(content, annotations=[]) and index.anns == {}
    (tmp_path / 'a.json').write_text('[]')
    with pytest.raises(AssertionError, match='not supported'):
        lvis.LVIS(str(tmp_path / 'a.json'))
    load = lvis.LVIS._load_json
    compat.let_lvis_read_images_without_annotations()
    assert lvis.LVIS._load_json is load  # once


only_where_broken = pytest.mark.skipif(
    reads_its_own_checkpoints(load_from_local), reason='MMEngine reads its checkpoints here'
)


@pytest.fixture
def schemes(monkeypatch):
    """MMEngine's schemes as they are without this package."""
    monkeypatch.setattr(CheckpointLoader, '_schemes', {**CheckpointLoader._schemes, '': load_from_local})
    return lambda: CheckpointLoader._schemes['']


def test_mmengine_reads_its_own_checkpoints(schemes, tmp_path):
    torch.save(dict(log=HistoryBuffer([1.0], [1]), lr=np.float64(0.5)), tmp_path / 'file.pth')
    compat.let_mmengine_read_its_checkpoints(load_as_data)
    content = CheckpointLoader.load_checkpoint(str(tmp_path / 'file.pth'))
    assert content['lr'] == 0.5 and type(content['log']) is HistoryBuffer


def test_a_path_in_the_home_folder(schemes, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    torch.save(dict(lr=np.float64(0.5)), tmp_path / 'file.pth')
    compat.let_mmengine_read_its_checkpoints(load_as_data)
    assert CheckpointLoader.load_checkpoint('~/file.pth')['lr'] == 0.5


@only_where_broken
def test_what_neither_reads_fails_with_the_hosts_own_error(schemes, tmp_path):
    compat.let_mmengine_read_its_checkpoints(load_as_data)
    torch.save(dict(a=Does(*leaves_a_mark(tmp_path / 'mark'))), tmp_path / 'file.pth')
    with pytest.raises(pickle.UnpicklingError, match='Weights only load failed'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'file.pth'))
    assert not (tmp_path / 'mark').exists()
    with pytest.raises(FileNotFoundError, match='nowhere.pth can not be found'):
        CheckpointLoader.load_checkpoint('nowhere.pth')


def _reads_unsafely(file, map_location=None):
    return torch.load(file, map_location=map_location, weights_only=False)


def load_from_local_by_itself(filename, map_location):
    return _reads_unsafely(filename, map_location=map_location)


def test_what_torch_reads_is_read_by_mmengine(schemes, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, 'load', lambda file, map_location=None, **_: (file, map_location))
    compat.let_mmengine_read_its_checkpoints(lambda *args: pytest.fail('read twice'))
    (tmp_path / 'file.pth').touch()
    assert CheckpointLoader.load_checkpoint(f'{tmp_path}/file.pth', 'cpu') == (f'{tmp_path}/file.pth', 'cpu')


def test_an_mmengine_that_decides_itself_how_to_read_is_left_alone(schemes, monkeypatch):
    monkeypatch.setattr('mmengine.runner.checkpoint.load_from_local', load_from_local_by_itself)
    monkeypatch.setitem(CheckpointLoader._schemes, '', load_from_local_by_itself)
    compat.let_mmengine_read_its_checkpoints(load_as_data)
    assert schemes() is load_from_local_by_itself


def test_a_loader_of_local_files_that_a_user_registered_stays(schemes):
    def own(filename, map_location):
        return {}

    CheckpointLoader.register_scheme('', own, force=True)
    compat.let_mmengine_read_its_checkpoints(load_as_data)
    assert schemes() is own


# ---------------------------------------------------------------- supported versions

OPENMMLAB = dict(torch='2.4.1+cu121', mmengine='0.10.7', mmcv='2.1.0', mmdet='3.3.0')
ONEDL = dict(torch='2.13.0', mmengine='0.10.12', mmcv='2.3.6', mmdet='3.5.1')


def of(stack):
    def version_of(module):
        if stack[module] is None:
            raise ModuleNotFoundError(f'No module named {module!r}', name=module)
        return stack[module]

    return version_of


@pytest.mark.parametrize(
    'stack',
    [
        OPENMMLAB,
        dict(OPENMMLAB, torch='2.1.0a0+git1', mmengine='0.10.3'),
        ONEDL,
        dict(ONEDL, mmcv='2.3.7+torch2.13.cpu'),
    ],
    ids=['OpenMMLab', 'lowest', 'OneDL', 'a build of its own'],
)
def test_every_supported_host_is_accepted(stack):
    compat.check_host_versions(of(stack))


@pytest.fixture(scope='module')
def distributions():
    return importlib.metadata.packages_distributions()


@pytest.mark.parametrize(
    'stack, start',
    [
        (dict(OPENMMLAB, torch='1.13.1+cu117'), r'apa_mmdet needs torch>=2.1, but torch 1.13.1\+cu117 is installed$'),
        (
            dict(OPENMMLAB, mmcv='2.2.0'),
            r'mmcv 2.2.0 is not supported here: found mmengine 0.10.7 \(of .*\), mmcv 2.2.0',
        ),
        (dict(OPENMMLAB, mmdet='2.28.2'), 'mmdet 2.28.2 is not supported here: found mmengine'),
        (dict(OPENMMLAB, mmcv='2.3.6'), 'mmcv 2.3.6 is not supported here: found mmengine 0.10.7'),  # of both lines
        (dict(ONEDL, mmdet='3.3.0'), 'mmdet 3.3.0 is not supported here: found mmengine 0.10.12 .*, mmcv 2.3.6 '),
        (dict(ONEDL, mmdet='3.2.9'), 'mmdet 3.2.9 is not supported here'),
        (dict(OPENMMLAB, mmengine=None), 'mmengine is not installed: install mmengine'),
        (dict(ONEDL, mmdet=None), 'mmdet is not installed: found mmengine 0.10.12'),
    ],
    ids=[
        'torch',
        'mmcv',
        'mmdet 2',
        'mmcv of the other line',
        'mmdet of the other line',
        'mmdet',
        'no mmengine',
        'no mmdet',
    ],
)
def test_other_hosts_are_refused_with_what_was_found_and_what_fits(stack, start, distributions, monkeypatch):
    monkeypatch.setattr(importlib.metadata, 'packages_distributions', lambda: distributions)  # 0.4 s a call
    with pytest.raises(ImportError, match='^' + start) as refused:
        compat.check_host_versions(of(stack))
    line = str(refused.value)
    assert '\n' not in line
    if 'torch>=' not in line:
        assert re.search(
            r'install mmengine>=\S+ mmcv>=\S+ mmdet>=\S+ \(apa_mmdet\[openmmlab\]\) or onedl-mmengine', line
        )


def test_the_distribution_that_brought_a_module_is_named(monkeypatch):
    monkeypatch.setattr(importlib.metadata, 'packages_distributions', lambda: dict(mmcv=['mmcv', 'onedl-mmcv', 'mmcv']))
    with pytest.raises(
        ImportError, match=r'found mmengine 0.10.7 \(of a folder\), mmcv 2.2.0 \(of mmcv, onedl-mmcv\);'
    ):
        compat.check_host_versions(of(dict(OPENMMLAB, mmcv='2.2.0')))


def test_versions_that_fail_after_the_test_are_refused(monkeypatch):
    monkeypatch.setattr(importlib.metadata, 'version', lambda package: '2.0.10')
    with pytest.raises(ImportError, match=r'needs pycocotools!=2.0.9,!=2.0.10, but pycocotools 2.0.10 is installed'):
        compat.check_host_versions(of(OPENMMLAB))


@pytest.mark.parametrize(
    'content, error, line',
    [
        (
            'assert 1 > 2, "MMCV==2.3.6 is used but\\nincompatible."',
            ImportError,
            r'made_up_host cannot be imported: MMCV==2.3.6 is used but incompatible\.',
        ),
        ('import absent_module', ImportError, "made_up_host cannot be imported: No module named 'absent_module'"),
        ('import os\nos.gone', ImportError, "made_up_host cannot be imported: module 'os' has no attribute 'gone'"),
        (None, ModuleNotFoundError, "No module named 'made_up_host'"),
    ],
    ids=['assertion', 'dependency', 'attribute', 'folder'],
)
def test_modules_that_cannot_be_imported_say_why(content, error, line, tmp_path, monkeypatch):
    (tmp_path / 'made_up_host').mkdir()
    if content:
        (tmp_path / 'made_up_host/__init__.py').write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(error, match=f'^{line}$') as refused:
        compat.module_version('made_up_host')
    sys.modules.pop('made_up_host', None)
    assert type(refused.value) is error


@pytest.mark.parametrize('library', [None, b'no library'], ids=['absent', 'of another torch'])
def test_operators_that_do_not_load_are_reported_before_anything_needs_them(library, tmp_path, monkeypatch):
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv/__init__.py').write_text("__version__ = '2.1.0'")
    if library:
        (tmp_path / f'mmcv/_ext{importlib.machinery.EXTENSION_SUFFIXES[0]}').write_bytes(library)
    for name in [name for name in sys.modules if name.split('.')[0] == 'mmcv']:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    cause = '(file too short|invalid ELF header)' if library else "No module named 'mmcv._ext'"
    with pytest.raises(
        ImportError, match=rf'^the operators of mmcv 2\.1\.0 do not load with torch .*{cause}.*: .*mmcv-lite'
    ):
        compat.check_mmcv_operators()
    sys.modules.pop('mmcv')


def test_this_host_is_one_of_them():
    compat.check_host_versions()
    compat.check_mmcv_operators()

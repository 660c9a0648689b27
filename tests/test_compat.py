"""Host versions, and fixes of what is broken in the host: each fixes that and nothing else."""

import importlib.metadata
import json
import pickle

import lvis.eval
import numpy as np
import pytest
import torch
from helpers.payloads import Does, leaves_a_mark
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


@pytest.fixture
def schemes(monkeypatch):
    """MMEngine's schemes as they are without this package."""
    monkeypatch.setattr(CheckpointLoader, '_schemes', {**CheckpointLoader._schemes, '': load_from_local})
    return lambda: CheckpointLoader._schemes['']


def test_mmengine_reads_its_own_checkpoints(schemes, tmp_path):
    torch.save(dict(log=HistoryBuffer([1.0], [1]), lr=np.float64(0.5)), tmp_path / 'file.pth')
    with pytest.raises(pickle.UnpicklingError):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'file.pth'))
    compat.let_mmengine_read_its_checkpoints(load_as_data)
    content = CheckpointLoader.load_checkpoint(str(tmp_path / 'file.pth'))
    assert content['lr'] == 0.5 and type(content['log']) is HistoryBuffer


def test_a_path_in_the_home_folder(schemes, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    torch.save(dict(lr=np.float64(0.5)), tmp_path / 'file.pth')
    compat.let_mmengine_read_its_checkpoints(load_as_data)
    assert CheckpointLoader.load_checkpoint('~/file.pth')['lr'] == 0.5


def test_what_neither_reads_fails_with_the_hosts_own_error(schemes, tmp_path):
    compat.let_mmengine_read_its_checkpoints(load_as_data)
    torch.save(dict(a=Does(*leaves_a_mark(tmp_path / 'mark'))), tmp_path / 'file.pth')
    with pytest.raises(pickle.UnpicklingError, match='Weights only load failed'):
        CheckpointLoader.load_checkpoint(str(tmp_path / 'file.pth'))
    assert not (tmp_path / 'mark').exists()
    with pytest.raises(FileNotFoundError, match='nowhere.pth can not be found'):
        CheckpointLoader.load_checkpoint('nowhere.pth')


@pytest.mark.parametrize('package', ['torch', 'mmengine'])
def test_a_host_that_reads_its_checkpoints_is_left_alone(schemes, package, monkeypatch):
    if package == 'torch':
        monkeypatch.setattr(torch, '__version__', '2.5.1')
    else:
        monkeypatch.setattr('mmengine.__version__', '0.10.8')
    compat.let_mmengine_read_its_checkpoints(load_as_data)
    assert schemes() is load_from_local


def test_a_loader_of_local_files_that_a_user_registered_stays(schemes):
    def own(filename, map_location):
        return {}

    CheckpointLoader.register_scheme('', own, force=True)
    compat.let_mmengine_read_its_checkpoints(load_as_data)
    assert schemes() is own


@pytest.mark.parametrize(
    'package, version, line',
    [
        ('torch', '1.13.1+cu117', r'apa_mmdet needs torch>=2.1, but torch 1.13.1\+cu117 is installed'),
        ('mmcv', '2.2.0', 'apa_mmdet needs mmcv>=2.0.0,<2.2.0, but mmcv 2.2.0 is installed'),
        ('mmdet', '2.28.2', 'apa_mmdet needs mmdet>=3.3.0,<4.0, but mmdet 2.28.2 is installed'),
        ('pycocotools', '2.0.10', 'needs pycocotools!=2.0.9,!=2.0.10, but pycocotools 2.0.10 is installed'),
        ('mmengine', None, 'apa_mmdet needs mmengine>=0.10.0,<1.0, which is not installed'),
    ],
)
def test_host_outside_the_supported_versions(package, version, line):
    def installed(name):
        if name == package and version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version if name == package else importlib.metadata.version(name)

    with pytest.raises(ImportError, match=line):
        compat.check_host_versions(installed)

"""The mends: that each mends what is broken, and nothing else."""

import argparse
import importlib.metadata
import os
import pickle
import subprocess
import sys

import lvis.eval
import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from apa_mmdet import compat
from apa_mmdet.checkpoint.io import BadCheckpoint, load_as_data
from apa_mmdet.checkpoint.safe_unpickler import ALLOWED


class RunsCode:
    """A pickle that runs a command when loaded."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return os.system, (f'touch {self.witness}',)


class LooksUp:
    """A pickle that fetches an attribute through getattr, as MMEngine's checkpoints do."""

    def __init__(self, owner, name):
        self.owner, self.name = owner, name

    def __reduce__(self):
        return getattr, (self.owner, self.name)


def saved(value, path):
    torch.save(value, path)
    return path


def test_what_mmengine_and_classifiers_write_loads_weights_only(tmp_path):
    buffer = HistoryBuffer([1.0, 2.0, 4.0], [1, 1, 2])
    checkpoint = dict(
        state_dict=dict(weight=torch.ones(2)),
        message_hub=dict(
            log_scalars={'train/loss': buffer}, runtime_info=dict(lr=np.float64(0.5), n=np.int64(3), a=np.eye(2))
        ),
        meta=dict(seed=1, time='now', dataset_meta=dict(CLASSES=('a', 'b'))),
        args=argparse.Namespace(lr=0.1),
    )
    path = saved(checkpoint, tmp_path / 'c.pth')
    loaded = load_as_data(path)
    assert loaded['args'] == argparse.Namespace(lr=0.1)
    history = loaded['message_hub']['log_scalars']['train/loss']
    assert history.mean() == buffer.mean() == 7 / 4 and history.statistics('max') == 4
    info = loaded['message_hub']['runtime_info']
    assert (info['lr'], info['n']) == (0.5, 3) and np.array_equal(info['a'], np.eye(2))


def test_a_checkpoint_that_runs_code_is_refused(tmp_path):
    witness = tmp_path / 'ran'
    path = saved(dict(state_dict=RunsCode(witness)), tmp_path / 'c.pth')
    with pytest.raises(BadCheckpoint, match='posix.system|os.system'):
        load_as_data(path)
    assert not witness.exists()


@pytest.mark.parametrize(
    'owner, name',
    [(HistoryBuffer, '__init__'), (HistoryBuffer, '__class__'), (np.ndarray, 'tofile'), (dict, 'fromkeys')],
)
def test_a_checkpoint_may_not_look_up_other_attributes(tmp_path, owner, name):
    path = saved(LooksUp(owner, name), tmp_path / 'c.pth')
    with pytest.raises(BadCheckpoint, match=rf"\(a checkpoint may not look up '{name}' of |\(dict\)"):
        load_as_data(path)


def test_the_real_getattr_and_eval_are_not_allowed():
    assert not {getattr, eval, exec, np.ndarray, np.dtype, HistoryBuffer} & {*ALLOWED.values()}


def twice_the_last(buffer):
    return 2 * buffer.current()


def test_a_users_own_statistic_is_named_and_can_be_allowed(tmp_path):
    HistoryBuffer.register_statistics(twice_the_last)
    try:
        path = saved(dict(logs=HistoryBuffer([1.0, 3.0], [1, 1])), tmp_path / 'c.pth')
        with pytest.raises(
            BadCheckpoint, match=r'twice_the_last\); .* allow it with torch.serialization.add_safe_globals$'
        ):
            load_as_data(path)
        with torch.serialization.safe_globals([twice_the_last]):
            assert load_as_data(path)['logs'].statistics('twice_the_last') == 6
    finally:
        del HistoryBuffer._statistics_methods['twice_the_last']


def test_lvis_has_np_float_and_numpy_is_left_alone():
    assert lvis.eval.np.float is float
    assert lvis.eval.np.cumsum is np.cumsum and lvis.eval.np.ndarray is np.ndarray
    assert not hasattr(np, 'float')


def test_lvis_without_the_fault_is_not_patched(monkeypatch):
    monkeypatch.setattr(lvis.eval, 'np', np)
    monkeypatch.setattr(compat.inspect, 'getsource', lambda module: 'x = np.float64(0)')
    compat.restore_np_float_for_lvis()
    assert lvis.eval.np is np


def test_outside_of_our_loading_torch_allows_what_it_did(tmp_path):
    load_as_data(saved(dict(a=np.eye(2)), tmp_path / 'c.pth'))
    assert not {*torch.serialization.get_safe_globals()} & {*ALLOWED.values()}
    with pytest.raises(pickle.UnpicklingError, match='numpy._core.multiarray._reconstruct was not an allowed global'):
        torch.load(tmp_path / 'c.pth', weights_only=True)


def test_what_is_allowed_goes_by_its_own_name_as_torch_2_4_wants_it():
    """Torch 2.4 and 2.5 know no pairs of a function and its name, and look at ``__name__``."""
    assert all(name == f'{entry.__module__}.{entry.__name__}' for name, entry in ALLOWED.items())
    assert {
        'builtins.getattr',
        'numpy.core.multiarray.scalar',
        'numpy._core.multiarray._reconstruct',
        'argparse.Namespace',
    } <= {*ALLOWED}


def test_a_users_own_list_of_what_is_allowed_is_left_as_it_is(tmp_path):
    """Of two under one name torch takes either, by chance."""
    path = saved(dict(a=np.array(['x']), b=np.eye(2)), tmp_path / 'text.pth')
    theirs = [
        np.ndarray,
        np.dtype,
        np.zeros(0).__reduce__()[0],
        np.dtypes.StrDType,
        np.dtypes.Float64DType,
        (getattr, 'builtins.getattr'),
    ]
    with torch.serialization.safe_globals(theirs):
        before = {id(entry) for entry in torch.serialization.get_safe_globals()}
        assert type(load_as_data(saved(dict(a=np.eye(2)), tmp_path / 'c.pth'))['a']) is np.ndarray
        with pytest.raises(BadCheckpoint, match="may not look up 'tofile'"):
            load_as_data(saved(LooksUp(np.ndarray, 'tofile'), tmp_path / 'c.pth'))
        assert {id(entry) for entry in torch.serialization.get_safe_globals()} == before
        assert torch.load(path, weights_only=True)['a'].tolist() == ['x']


def test_what_numpy_1_wrote_loads(tmp_path):
    path = tmp_path / 'c.pth'
    torch.save(dict(a=np.eye(2), b=np.float32(0.5)), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b'cnumpy._core.multiarray', b'cnumpy.core.multiarray'))
    loaded = load_as_data(path)
    assert np.array_equal(loaded['a'], np.eye(2)) and loaded['b'] == 0.5


@pytest.mark.parametrize(
    'package, version, line',
    [
        ('torch', '1.13.1+cu117', r'apa_mmdet needs torch>=2.1, but torch 1.13.1\+cu117 is installed'),
        ('mmcv', '2.2.0', 'apa_mmdet needs mmcv>=2.0.0,<2.2.0, but mmcv 2.2.0 is installed'),
        ('mmdet', '2.28.2', 'apa_mmdet needs mmdet>=3.3.0,<4.0, but mmdet 2.28.2 is installed'),
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


def test_ops_work_without_mmdetection():
    """In a process where no package but torch can be found."""
    script = """
import sys
from importlib.abc import MetaPathFinder
class Hidden(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('mmdet', 'mmcv', 'mmengine', 'lvis', 'pycocotools', 'cv2'):
            raise ModuleNotFoundError(name, name=name)
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == 'mmdet' else found(name, package)
sys.meta_path.insert(0, Hidden())
import torch
from apa_mmdet.ops import aglu
print(aglu(torch.zeros(3), torch.ones(1), torch.ones(1)).tolist())
"""
    run = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert run.stdout.strip() == '[0.0, 0.0, 0.0]', run.stderr

import os
from pathlib import Path

import pytest
import torch
from filelock import FileLock

if not torch.cuda.is_available():
    os.environ.setdefault('TRITON_INTERPRET', '1')  # before anything imports Triton: its kernels then run on the CPU

from helpers import fast_host  # noqa: F401
from helpers import strict_operators as helper_of_strict_operators

from apa_mmdet.datasets.tiny_lvis.generate import make_tiny_lvis


@pytest.fixture(autouse=True)
def same_numbers_every_time():
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def tiny_data(tmp_path_factory):
    """Returns the folder of a small drawn data set, drawn once for all test processes: not to be written to."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base

    def folder(form='tiny_lvis', train=16, val=6, size=(96, 96)) -> Path:
        path = shared / 'tiny_data' / f'{form}_{train}_{val}_{"x".join(map(str, size))}'
        path.parent.mkdir(exist_ok=True)
        with FileLock(f'{path}.lock'):
            make_tiny_lvis(path, train, val, size, progress=False, form=form)
        return path

    return folder


@pytest.fixture
def strict_operators(monkeypatch):
    """mmcv's operators refuse what their CUDA code cannot take or misreads; returns the set of those that were called."""
    return helper_of_strict_operators.install(monkeypatch)

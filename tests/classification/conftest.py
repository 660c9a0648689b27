"""Tests of image classification: `make test` runs them in a process of their own, with MMPretrain on its path.

All other tests run without it, as most users do.
"""

from importlib.util import find_spec

import pytest
from filelock import FileLock
from helpers import tiny_images

collect_ignore_glob = [] if find_spec('mmpretrain') and find_spec('torchvision') else ['test_*.py']


@pytest.fixture(scope='session')
def tiny(tmp_path_factory):
    """Returns the folder of the small data set for ``configs/<kind>``: not to be written to."""
    base = tmp_path_factory.getbasetemp() / 'tiny_images'
    base.mkdir(exist_ok=True)

    def folder(kind):
        path = base / kind
        with FileLock(f'{path}.lock'):
            return path if path.exists() else tiny_images.make_tiny(kind, path)

    return folder


@pytest.fixture
def no_checksums(monkeypatch):
    """Lets the drawn files of CIFAR pass for the real ones."""
    from mmpretrain.datasets import CIFAR100

    monkeypatch.setattr(CIFAR100, 'train_list', [['train', None]])
    monkeypatch.setattr(CIFAR100, 'test_list', [['test', None]])

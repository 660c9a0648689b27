"""The narrow mends that the supported host packages need. Nothing else in this package may patch a library.

Each mend looks first whether the thing is broken, and leaves it alone where it is not.
"""

import functools
import importlib.metadata
import inspect
import logging
import os
import re
import types
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch

# package: (first supported, first not supported); the reasons stand in pyproject.toml
SUPPORTED = {
    'torch': ('2.1', None),
    'mmengine': ('0.10.0', '1.0'),
    'mmcv': ('2.0.0', '2.2.0'),
    'mmdet': ('3.3.0', '4.0'),
}


def check_host_versions(installed: Callable[[str], str] = importlib.metadata.version) -> None:
    """Raise ImportError, naming package and range, unless every host package lies in :data:`SUPPORTED`.

    Args:
        installed: gives the version of a package.
    """
    for package, (first, end) in SUPPORTED.items():
        wanted = f'{package}>={first}' + (f',<{end}' if end else '')
        try:
            version = installed(package)
        except importlib.metadata.PackageNotFoundError:
            raise ImportError(f'apa_mmdet needs {wanted}, which is not installed') from None
        if _release(version) < _release(first) or (end and _release(version) >= _release(end)):
            raise ImportError(f'apa_mmdet needs {wanted}, but {package} {version} is installed')


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.match(r'\d+(\.\d+)*', version).group().split('.'))


# ---------------------------------------------------------------- checkpoints are data

_as_data = ContextVar('_as_data', default=False)  # whether MMEngine is loading a checkpoint, in this thread


def load_checkpoints_as_data() -> None:
    """Let MMEngine read checkpoints, wherever they lie, as tensors and plain data alone.

    It leaves the choice to torch: not safe before 2.6, with TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD and, in every version, for
    checkpoints at a URL. Besides, it runs the text of a config that it finds in a checkpoint: in the ``meta.config`` of
    one to resume from, which goes unread here, and in one from which DetInferencer is to be built without a config.

    ``torch.load`` is as before wherever else it is called, in other threads too.
    """
    from mmengine.infer import BaseInferencer
    from mmengine.runner.checkpoint import CheckpointLoader

    stock_load, stock_loader, stock_model = torch.load, CheckpointLoader.load_checkpoint, BaseInferencer._init_model

    @functools.wraps(stock_load)
    def load(*args, **kwargs):
        if not _as_data.get():
            return stock_load(*args, **kwargs)
        from apa_mmdet.checkpoint.io import load_as_data

        given = inspect.signature(stock_load).bind(*args, **kwargs).arguments
        return load_as_data(given['f'], given.get('map_location'))

    def load_checkpoint(cls, filename, map_location=None, logger='current'):
        token = _as_data.set(True)
        try:
            checkpoint = stock_loader(filename, map_location, logger)
        finally:
            _as_data.reset(token)
        _leave_out_program(checkpoint, filename, logger)
        return checkpoint

    def init_model(self, cfg, weights, device='cpu'):
        if not cfg:
            raise ValueError(
                f'{weights}: name the config of its model as well; the one inside a checkpoint is a '
                'program, and is not run'
            )
        return stock_model(self, cfg, weights, device)

    torch.load = load
    CheckpointLoader.load_checkpoint = classmethod(load_checkpoint)
    BaseInferencer._init_model = init_model


def _leave_out_program(checkpoint: Any, filename: str, logger: Any) -> None:
    from mmengine.logging import print_log

    if os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '0').lower() in ('1', 'y', 'yes', 'true'):
        print_log(
            f'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set, but not for apa_mmdet: {filename} was read as data alone',
            logger,
            logging.WARNING,
        )
    # a loader of the user's own may hand on a dict whose `get` and `pop` are the file's
    meta = dict.get(checkpoint, 'meta') if isinstance(checkpoint, dict) else None
    if isinstance(meta, dict) and dict.__contains__(meta, 'config'):
        type(meta).__delitem__(meta, 'config')
        print_log(f'meta.config of {filename} is left out: it is a program', logger)


# ---------------------------------------------------------------- LVIS


class NumpyWithFloat(types.ModuleType):
    """NumPy with the alias ``np.float``, which NumPy 1.24 dropped."""

    float = float

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def restore_np_float_for_lvis() -> None:
    """Give ``lvis.eval``, and it alone, the ``np.float`` that lvis 0.5.3 uses."""
    import lvis.eval

    if not hasattr(np, 'float') and re.search(r'\bnp\.float\b', inspect.getsource(lvis.eval)):
        lvis.eval.np = NumpyWithFloat('numpy')


def mend() -> None:
    load_checkpoints_as_data()
    restore_np_float_for_lvis()

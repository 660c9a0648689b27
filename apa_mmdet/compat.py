"""The narrow mends that the supported host packages need. Nothing else in this package may patch a library.

Each mend looks first whether the thing is broken, and leaves it alone where it is not.
"""
import argparse
import codecs
import importlib.metadata
import inspect
import re
import types
from typing import Any, Callable, Tuple

import numpy as np
import torch

# package: (first supported, first not supported); the reason stands in setup.py's requirements
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


def _release(version: str) -> Tuple[int, ...]:
    return tuple(int(number) for number in re.match(r'\d+(\.\d+)*', version).group().split('.'))


def history_buffer_method(owner: Any, name: str) -> Any:
    """Stand-in for ``builtins.getattr`` while a checkpoint is loaded: looks up HistoryBuffer's methods, nothing else.

    MMEngine's checkpoints name the statistics of their logs (``HistoryBuffer.mean`` …) through ``getattr``.
    The real one would let a file reach any attribute of any allowed object.
    """
    from mmengine.logging import HistoryBuffer
    HistoryBuffer()  # the first one registers the standard statistics
    if owner is HistoryBuffer and name in HistoryBuffer._statistics_methods:
        return HistoryBuffer._statistics_methods[name]
    raise TypeError(f'a checkpoint may not look up {name!r} of {owner!r}')


def allow_mmengine_checkpoints() -> None:
    """Let weights-only loading, torch's default since 2.6, read what checkpoints hold besides tensors and containers.

    MMEngine's hold logs (HistoryBuffer) and NumPy numbers and arrays of numbers, those of classifiers the arguments of
    their training (Namespace), all of which are data. Before torch 2.4 nothing can be allowed, and nothing is done.
    """
    from mmengine.logging import HistoryBuffer
    if not hasattr(torch.serialization, 'add_safe_globals'):
        return
    scalar, reconstruct = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
    modules = 'numpy._core.multiarray', 'numpy.core.multiarray'  # NumPy 2 and 1 write different ones
    torch.serialization.add_safe_globals([
        argparse.Namespace, HistoryBuffer, np.dtype, np.ndarray,
        codecs.encode,  # of NumPy's bytes; torch allows it itself from 2.5 on
        *(type(np.dtype(kind)) for kind in ('?', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4', 'f8')),
        *(_known_as(module, 'scalar', scalar) for module in modules),
        *(_known_as(module, '_reconstruct', reconstruct) for module in modules),
        _known_as('builtins', 'getattr', history_buffer_method),
    ])


def _known_as(module: str, name: str, function: Callable) -> Callable:
    """``function`` under another name; torch takes a pair of the two from 2.6 on, and fails over one before."""

    def stand_in(*args):
        return function(*args)

    stand_in.__module__, stand_in.__name__, stand_in.__qualname__ = module, name, name
    return stand_in


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
    allow_mmengine_checkpoints()
    restore_np_float_for_lvis()

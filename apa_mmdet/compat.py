"""The narrow mends that the supported host packages need. Nothing else in this package may patch a library.

Each mend looks first whether the thing is broken, and leaves it alone where it is not.
"""
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
    """Let weights-only loading, torch's default since 2.6, read what MMEngine's checkpoints hold.

    Besides tensors and plain containers these hold logs (HistoryBuffer) and NumPy numbers and arrays of
    numbers, all of which are data. Before 2.6 nothing is broken, and nothing is done.
    """
    from mmengine.logging import HistoryBuffer
    if _release(torch.__version__) < (2, 6):
        return
    scalar, reconstruct = np.float64(0).__reduce__()[0], np.zeros(0).__reduce__()[0]
    modules = 'numpy._core.multiarray', 'numpy.core.multiarray'  # NumPy 2 and 1 write different ones
    torch.serialization.add_safe_globals([
        HistoryBuffer, np.dtype, np.ndarray,
        *(type(np.dtype(kind)) for kind in ('?', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4', 'f8')),
        *((scalar, f'{module}.scalar') for module in modules),
        *((reconstruct, f'{module}._reconstruct') for module in modules),
        (history_buffer_method, 'builtins.getattr'),
    ])


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

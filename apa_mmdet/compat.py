"""The narrow mends that the supported host packages need. Nothing else in this package may patch a library.

Each mend looks first whether the thing is broken, and leaves it alone where it is not.
"""
import argparse
import codecs
import importlib.metadata
import inspect
import logging
import os
import pickle
import re
import types
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from typing import Any, Callable, Dict, List, Tuple

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


# ---------------------------------------------------------------- checkpoints are data

NUMBERS = ('b1', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4', 'f8')  # as NumPy's pickles call them


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


class NumberType:
    """Stand-in for ``numpy.dtype`` while a checkpoint is loaded: a type of number and its byte order.

    The real one takes fields, sizes and flags from the file, by which NumPy then reads memory that is not the array's.
    """

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if code not in NUMBERS:
            raise TypeError(f'a checkpoint may not hold NumPy data of the type {code!r}')
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        version, order, *rest = state
        if version != 3 or rest != [None, None, None, -1, -1, 0]:
            raise TypeError('a checkpoint may not hold NumPy data of a type with fields, sizes or flags of its own')
        self.dtype = self.dtype.newbyteorder(order)

    def __reduce_ex__(self, protocol: int) -> tuple:
        return self.dtype.__reduce_ex__(protocol)


class NumberArray(np.ndarray):
    """Stand-in for ``numpy.ndarray`` while a checkpoint is loaded; saved again, it is a plain array.

    The real one takes bytes of the file for the addresses of objects: ``ndarray((1, ), 'O', bytearray(…))``.
    """

    def __new__(cls, *forged: Any) -> 'NumberArray':
        if forged:
            raise TypeError('a checkpoint may not make NumPy arrays of its own')
        return super().__new__(cls, 0, np.int8)

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, by_column, data = state
        super().__setstate__((1, shape, _numbers(kind, data), bool(by_column), data))

    def __reduce_ex__(self, protocol: int) -> tuple:
        return self.view(np.ndarray).__reduce_ex__(protocol)


def _numbers(kind: Any, data: Any) -> np.dtype:
    if type(kind) is not NumberType or type(data) is not bytes:
        raise TypeError('a checkpoint may not hold NumPy data other than numbers')
    return kind.dtype


def _array(kind: type, *_) -> NumberArray:
    return NumberArray.__new__(kind)


def _scalar(kind: NumberType, data: bytes) -> np.generic:
    number, = np.frombuffer(data, _numbers(kind, data))
    return number


def _known_as(module: str, name: str, function: Callable) -> Callable:
    """``function`` under another name; torch takes a pair of the two from 2.6 on, and fails over one before."""

    def stand_in(*args):
        return function(*args)

    stand_in.__module__, stand_in.__name__, stand_in.__qualname__ = module, name, name
    return stand_in


for _name, _kind in dict(dtype=NumberType, ndarray=NumberArray).items():
    _kind.__module__, _kind.__name__, _kind.__qualname__ = 'numpy', _name, _name


def allowed_in_checkpoints() -> List[Callable]:
    """What checkpoints may name besides tensors and containers, under the names that they use.

    MMEngine's hold logs (HistoryBuffer) and NumPy numbers and arrays of numbers, those of classifiers the arguments of
    their training (Namespace), all of which are data.
    """
    from mmengine.logging import HistoryBuffer
    modules = 'numpy._core.multiarray', 'numpy.core.multiarray'  # NumPy 2 and 1 write different ones
    return [
        argparse.Namespace, HistoryBuffer, NumberType, NumberArray,
        codecs.encode,  # of NumPy's bytes; torch allows it itself from 2.5 on
        _known_as('builtins', 'bytes', lambda: b''),  # of an empty array
        *(_known_as(module, 'scalar', _scalar) for module in modules),
        *(_known_as(module, '_reconstruct', _array) for module in modules),
        _known_as('builtins', 'getattr', history_buffer_method),
    ]


def allow_mmengine_checkpoints() -> None:
    """Let weights-only loading read :func:`allowed_in_checkpoints`. Before torch 2.4 see :class:`Unpickler`."""
    if hasattr(torch.serialization, 'add_safe_globals'):
        torch.serialization.add_safe_globals(allowed_in_checkpoints())


class Unpickler(pickle._Unpickler):
    """What weights-only loading is from torch 2.4 on, for the torch before it, which can allow nothing of ours.

    A file can name what is allowed, and fill in objects of these kinds; nothing else is looked up.
    """

    dispatch = dict(pickle._Unpickler.dispatch)
    allowed: Dict[str, Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        if not self.allowed:
            self.allowed.update(torch._weights_only_unpickler._get_allowed_globals())
            self.allowed.update((f'{f.__module__}.{f.__qualname__}', f) for f in allowed_in_checkpoints())
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        if f'{module}.{name}' not in self.allowed:
            raise pickle.UnpicklingError(f'Unsupported class {module}.{name}')
        return self.allowed[f'{module}.{name}']

    def load_build(self) -> None:
        kind = type(self.stack[-2])
        if not any(kind is known for known in self.allowed.values()):
            raise pickle.UnpicklingError(f'Unsupported class {kind.__module__}.{kind.__qualname__}')
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build


def load_checkpoints_as_data() -> None:
    """Let MMEngine read checkpoints, wherever they lie, as tensors and plain data alone.

    It leaves the choice to torch: not safe before 2.6, with TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD and, in every version, for
    checkpoints at a URL. Besides, it runs the text of a config that it finds in a checkpoint: in the ``meta.config`` of
    one to resume from, which goes unread here, and in one from which DetInferencer is to be built without a config.
    """
    from mmengine.infer import BaseInferencer
    from mmengine.logging import print_log
    from mmengine.runner.checkpoint import CheckpointLoader

    from .engine.weights_file import load_as_data
    stock_loader, stock_model = CheckpointLoader.load_checkpoint, BaseInferencer._init_model

    def load_checkpoint(cls, filename, map_location=None, logger='current'):
        stock_load = torch.load
        torch.load = lambda file, map_location=None, **_: load_as_data(file, map_location)
        try:
            checkpoint = stock_loader(filename, map_location, logger)
        finally:
            torch.load = stock_load
        if os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '0').lower() in ('1', 'y', 'yes', 'true'):
            print_log(f'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set, but not for apa_mmdet: {filename} was read as data '
                      'alone', logger, logging.WARNING)
        meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
        if isinstance(meta, dict) and meta.pop('config', None) is not None:
            print_log(f'meta.config of {filename} is left out: it is a program', logger)
        return checkpoint

    def init_model(self, cfg, weights, device='cpu'):
        if not cfg:
            raise ValueError(f'{weights}: name the config of its model as well; the one inside a checkpoint is a '
                             'program, and is not run')
        return stock_model(self, cfg, weights, device)

    CheckpointLoader.load_checkpoint = classmethod(load_checkpoint)
    BaseInferencer._init_model = init_model


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
    allow_mmengine_checkpoints()
    load_checkpoints_as_data()
    restore_np_float_for_lvis()

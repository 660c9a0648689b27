"""Stand-ins for the classes and functions that checkpoints name besides tensors and containers.

MMEngine's checkpoints hold logs (HistoryBuffer), parts of configs (ConfigDict) and NumPy numbers and arrays, those of
classifiers the arguments of their training (Namespace). All of these are data, but their own code trusts the file. A
file that names one gets a stand-in while it is read; what the caller gets are the real classes.
"""

import argparse
import codecs
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from apa_mmdet.utils.errors import CodedError

NUMBERS = ('b1', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4', 'f8')  # as NumPy's pickles call them
OTHER_DATA = dict(U='text', S='bytes', c='complex numbers', M='dates', m='spans of time', f='numbers of that size')


class Refused(CodedError):
    """Raised when a file asks for an object that is not allowed. The message is to be put behind the file's name."""


def runs_code(what: str, advice: str = '') -> Refused:
    return Refused(
        'runs-code',
        f'is refused, because loading it would run code ({what}); get a file that only holds weights{advice}',
    )


def may_not(what: str) -> Refused:
    return runs_code(f'a checkpoint may not {what}')


class NumberType:
    """Stand-in for ``numpy.dtype``: a type of number and its byte order.

    The real one takes fields, sizes and flags from the file, by which NumPy then reads memory outside the array.
    """

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if isinstance(code, str) and code not in NUMBERS and code[:1] in OTHER_DATA:
            raise Refused(
                'unsupported-data',
                f'holds NumPy data of the type {code[:20]!r}, {OTHER_DATA[code[0]]}, of which only booleans, '
                'integers and floating-point numbers are read; save them as plain Python values',
            )
        if code not in NUMBERS:
            raise may_not(f'hold NumPy data of the type {code!r:.50}')
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        version, order, *rest = state
        if version != 3 or rest != [None, None, None, -1, -1, 0]:
            raise may_not('hold NumPy data of a type with fields, sizes or flags of its own')
        self.dtype = self.dtype.newbyteorder(order)


class NumberArray(np.ndarray):
    """Stand-in for ``numpy.ndarray``.

    The real one takes bytes of the file for the addresses of objects: ``ndarray((1, ), 'O', bytearray(…))``.
    """

    def __new__(cls, *forged: Any) -> 'NumberArray':
        if forged:
            raise may_not('make NumPy arrays of its own')
        return super().__new__(cls, 0, np.int8)

    def __setstate__(self, state: tuple) -> None:
        if self.nbytes:  # a tensor may share this memory, which would be freed under it
            raise may_not('fill a NumPy array twice')
        _, shape, number_type, by_column, data = state
        dtype = _dtype(number_type, data)
        if math.prod(shape) * dtype.itemsize != len(data):  # before NumPy allocates the memory
            raise ValueError(f'an array with {len(data)} bytes has another shape')
        whole: Any = 1, shape, dtype, bool(by_column), data
        super().__setstate__(whole)


def _dtype(number_type: Any, data: Any) -> np.dtype:
    if type(number_type) is not NumberType or type(data) is not bytes:
        raise may_not('hold NumPy data other than numbers')
    return number_type.dtype


def _array(array_type: type, *_) -> NumberArray:
    if array_type is not NumberArray:
        raise may_not(f'make an array of {array_type!r:.50}')
    return NumberArray()


def _scalar(number_type: NumberType, data: bytes) -> np.generic:
    (number,) = np.frombuffer(data, _dtype(number_type, data))
    return number


class Log(HistoryBuffer):
    """Stand-in for ``HistoryBuffer``, which becomes one once it is filled.

    The real one lets a file set attributes, and the statistics of all logs of the process.
    """

    def __init__(self) -> None:
        raise may_not('make a log of its own')

    def __setstate__(self, state: dict) -> None:
        state = dict(state)
        self._set_default_statistics()
        for name, method in state.pop('statistics_methods', {}).items():
            if self._statistics_methods.get(name) is not method:
                raise may_not(f'set the statistic {name!r:.50} of logs, which is another one here or none')
        log, count, max_length = (state.pop(key, None) for key in ('_log_history', '_count_history', 'max_length'))
        if state:
            raise may_not(f'set the attribute {next(iter(state))!r:.50} of a log')
        if type(max_length) is not int or not type(log) is type(count) is NumberArray:
            raise may_not('hold a log of anything but numbers')
        self.__class__ = HistoryBuffer
        HistoryBuffer.__init__(self, log, count, max_length)


def _statistic(owner: Any, name: str) -> Callable:
    """Stand-in for ``builtins.getattr``, by which MMEngine's logs name their statistics, ``HistoryBuffer.mean`` ….

    The real one would let a file reach any attribute of any allowed object.
    """
    if owner is Log:
        Log._set_default_statistics(Log)
        if name in HistoryBuffer._statistics_methods:
            return HistoryBuffer._statistics_methods[name]
    raise may_not(f'look up {name!r:.50} of {owner!r:.50}')


def _config_dict(content: dict) -> ConfigDict:
    if type(content) is not dict:
        raise may_not('make a ConfigDict of anything but a dict')
    made = ConfigDict()
    dict.update(made, content)  # ConfigDict(content) converts recursively: endless for a dict that holds itself
    return made


# what a file may name, besides what torch and the user allow: name → what it gets
STAND_INS: dict[str, Any] = {
    'argparse.Namespace': argparse.Namespace,
    '_codecs.encode': codecs.encode,  # NumPy's bytes
    'builtins.bytes': lambda: b'',  # an empty array
    'builtins.getattr': _statistic,
    'numpy.dtype': NumberType,
    'numpy.ndarray': NumberArray,
    # NumPy 2, NumPy 1
    'numpy._core.multiarray.scalar': _scalar,
    'numpy.core.multiarray.scalar': _scalar,
    'numpy._core.multiarray._reconstruct': _array,
    'numpy.core.multiarray._reconstruct': _array,
    f'{HistoryBuffer.__module__}.HistoryBuffer': Log,
    f'{ConfigDict.__module__}.ConfigDict': _config_dict,
}

"""Pickles read as data: what a checkpoint may name besides tensors and containers, and what it gets in its place.

MMEngine's checkpoints hold logs (HistoryBuffer), parts of configs (ConfigDict) and NumPy numbers and arrays of numbers,
those of classifiers the arguments of their training (Namespace). All of these are data, but their own code trusts the
file. So a file that names one gets a stand-in, while it is read and no longer.
"""

import argparse
import codecs
import math
import pickle
import threading
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

NUMBERS = ('b1', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f2', 'f4', 'f8')  # as NumPy's pickles call them
OTHER_DATA = dict(U='text', S='bytes', c='complex numbers', M='dates', m='spans of time', f='numbers of that size')
_LOCK = threading.RLock()  # what torch allows, it allows all threads


class Refused(Exception):
    """What a file asks for is not given to it; the text says what that is, and goes behind the file's name."""


def runs_code(what: str, instead: str = '') -> Refused:
    return Refused(
        f'is refused, because loading it would run code ({what}); get a file that holds weights alone{instead}'
    )


def may_not(what: str) -> Refused:
    return runs_code(f'a checkpoint may not {what}')


# ---------------------------------------------------------------- stand-ins


class NumberType:
    """Stand-in for ``numpy.dtype``: a type of number and its byte order.

    The real one takes fields, sizes and flags from the file, by which NumPy then reads memory that is not the array's.
    """

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if isinstance(code, str) and code not in NUMBERS and code[:1] in OTHER_DATA:
            raise Refused(
                f'holds NumPy data of the type {code[:20]!r}, {OTHER_DATA[code[0]]}, of which only booleans, '
                'integers and floating-point numbers are read; save them as plain Python values'
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
        if self.nbytes:  # of which a tensor may have been made, and which would be freed under it
            raise may_not('fill a NumPy array twice')
        _, shape, kind, by_column, data = state
        numbers = _numbers(kind, data)
        if math.prod(shape) * numbers.itemsize != len(data):  # before NumPy looks for the memory
            raise ValueError(f'an array with {len(data)} bytes has another shape')
        super().__setstate__((1, shape, numbers, bool(by_column), data))


def _numbers(kind: Any, data: Any) -> np.dtype:
    if type(kind) is not NumberType or type(data) is not bytes:
        raise may_not('hold NumPy data other than numbers')
    return kind.dtype


def _array(kind: type, *_) -> NumberArray:
    if kind is not NumberArray:
        raise may_not(f'make an array of {kind!r:.50}')
    return NumberArray()


def _scalar(kind: NumberType, data: bytes) -> np.generic:
    (number,) = np.frombuffer(data, _numbers(kind, data))
    return number


class Log(HistoryBuffer):
    """Stand-in for ``HistoryBuffer``, and one itself once it is filled.

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


def statistic(owner: Any, name: str) -> Callable:
    """Stand-in for ``builtins.getattr``, by which MMEngine's logs name their statistics, ``HistoryBuffer.mean`` ….

    The real one would let a file reach any attribute of any allowed object.
    """
    if owner is Log:
        Log._set_default_statistics(Log)
        if name in HistoryBuffer._statistics_methods:
            return HistoryBuffer._statistics_methods[name]
    raise may_not(f'look up {name!r:.50} of {owner!r:.50}')


def _config(content: dict) -> ConfigDict:
    if type(content) is not dict:
        raise may_not('make a ConfigDict of anything but a dict')
    made = ConfigDict()
    dict.update(made, content)  # the parts are made already; making them anew would not end in one that holds itself
    return made


def _known_as(module: str, name: str, what: Any) -> Any:
    """``what`` under another name; torch takes a pair of the two from 2.6 on, and fails over one before."""
    what.__module__, what.__name__, what.__qualname__ = module, name, name
    return what


def _stand_ins() -> list[Callable]:
    modules = 'numpy._core.multiarray', 'numpy.core.multiarray'  # NumPy 2 and 1 write different ones
    return [
        argparse.Namespace,
        codecs.encode,  # of NumPy's bytes; torch allows it itself from 2.5 on
        _known_as('builtins', 'bytes', lambda: b''),  # of an empty array
        _known_as('numpy', 'dtype', NumberType),
        _known_as('numpy', 'ndarray', NumberArray),
        *(_known_as(module, 'scalar', lambda *args: _scalar(*args)) for module in modules),
        *(_known_as(module, '_reconstruct', lambda *args: _array(*args)) for module in modules),
        _known_as(HistoryBuffer.__module__, 'HistoryBuffer', Log),
        _known_as('builtins', 'getattr', statistic),
        _known_as(ConfigDict.__module__, 'ConfigDict', _config),
    ]


def _name(entry: Any) -> str:
    """What files call an entry of torch's list: a function or class, or a pair of one and a name."""
    return entry[1] if isinstance(entry, tuple) else f'{entry.__module__}.{entry.__qualname__}'


ALLOWED: dict[str, Any] = {_name(entry): entry for entry in _stand_ins()}

# ---------------------------------------------------------------- loading


def load(file: Any, map_location: Any = None) -> Any:
    """``torch.serialization.load`` of data alone.

    Raises:
        Refused: if the file asks for anything else.
        Exception: of all kinds, whatever torch raises over damaged files.
    """
    with _LOCK, torch.sparse.check_sparse_tensor_invariants():
        if not hasattr(torch.serialization, 'add_safe_globals'):
            return _settled(torch.serialization.load(file, map_location, pickle_module=DataPickle))
        with _allowed_by_torch():
            return _settled(torch.serialization.load(file, map_location, weights_only=True))


@contextmanager
def _allowed_by_torch() -> Iterator[None]:
    """Let torch know the stand-ins, and them alone under these names: of two it would take either."""
    listed = torch.serialization
    theirs = [entry for entry in listed.get_safe_globals() if _name(entry) in ALLOWED]
    _replace(theirs, ALLOWED.values())
    try:
        yield
    finally:
        _replace(ALLOWED.values(), theirs)


def _replace(some: Any, others: Any) -> None:
    gone = {id(entry) for entry in some}
    kept = [entry for entry in torch.serialization.get_safe_globals() if id(entry) not in gone]
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([*kept, *others])


class DataPickle:
    """``pickle``, as far as torch uses it to load: weights-only loading for a torch that can allow nothing of ours.

    A file can name what is allowed, and fill in objects of these kinds; nothing else is looked up.
    """

    class Unpickler(pickle._Unpickler):
        dispatch = dict(pickle._Unpickler.dispatch)

        def find_class(self, module: str, name: str) -> Any:
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            known = {**torch._weights_only_unpickler._get_allowed_globals(), **ALLOWED}
            if f'{module}.{name}' not in known:
                raise runs_code(f'{module}.{name}')
            return known[f'{module}.{name}']

        def load_build(self) -> None:
            kind = type(self.stack[-2])
            known = [*torch._weights_only_unpickler._get_allowed_globals().values(), *ALLOWED.values()]
            if not any(kind is one for one in known):
                raise runs_code(f'{kind.__module__}.{kind.__qualname__}')
            super().load_build()

        dispatch[pickle.BUILD[0]] = load_build

    @classmethod
    def load(cls, file: IO[bytes], **kwargs) -> Any:
        return cls.Unpickler(file, **kwargs).load()


# ---------------------------------------------------------------- afterwards


def _settled(content: Any) -> Any:
    """``content`` with plain NumPy instead of stand-ins, none of whose attributes hides a method.

    A file may set attributes of dicts and tensors: after ``checkpoint.get = …`` a caller's ``get`` is the file's.
    """
    whole, seen, plain = [content], {}, {}
    todo: list[Any] = [whole]
    while todo:  # no recursion: a file may be nested as deeply as it likes
        value = todo.pop()
        if id(value) in seen or isinstance(value, (str, bytes, int, float, type)):
            continue
        seen[id(value)] = value
        attributes = getattr(value, '__dict__', None)
        if isinstance(attributes, dict):
            _check_attributes(value, attributes)
            todo.append(attributes)
        if isinstance(value, dict):
            for key, part in list(dict.items(value)):
                dict.__setitem__(value, key, _plain(part, plain))
            todo += [*dict.keys(value), *dict.values(value)]
        elif type(value) is list:
            value[:] = [_plain(part, plain) for part in value]
        if isinstance(value, (list, tuple, set)):
            todo += value
    return whole[0]


def _check_attributes(value: Any, attributes: dict) -> None:
    if type(value) in (OrderedDict, Counter):
        extra = [name for name in attributes if name != '_metadata']
    else:
        extra = [name for name in attributes if isinstance(value, torch.Tensor) and hasattr(type(value), str(name))]
    if extra:
        raise may_not(f'set the attribute {extra[0]!r:.50} of its {type(value).__name__}')


def _plain(value: Any, known: dict[int, Any]) -> Any:
    """``value``, or what a user expects in its place, the same one each time. ``known`` remembers."""
    if type(value) not in (tuple, NumberArray, NumberType):
        return value
    if id(value) not in known:
        if type(value) is tuple:
            parts = tuple(_plain(part, known) for part in value)
            made = value if all(new is old for new, old in zip(parts, value)) else parts
        else:
            made = value.dtype if type(value) is NumberType else value.view(np.ndarray)
        known[id(value)] = made, value  # kept, for its id to stay its own
    return known[id(value)][0]

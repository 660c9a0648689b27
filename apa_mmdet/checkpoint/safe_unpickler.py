"""Reads torch's files with an unpickler that builds tensors and plain data, and calls nothing that is not allowed.

torch's own ``weights_only`` unpickler has one list of allowed objects for the whole process, which the stand-ins of
MMEngine's classes would have to enter while a file is read. This one takes its list as an argument of the load: nothing
outside of it changes, threads do not meet, and it is the same for every version of torch.
"""

import os
import pickle
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from .stand_ins import STAND_INS, NumberArray, NumberType, Refused, may_not, runs_code

TORCH_CHECKS_SIZES = tuple(map(int, torch.__version__.split('.')[:2])) >= (2, 10)

# what torch allows in later versions than some that this package supports
OF_LATER_TORCH: dict[str, Any] = {
    **{f'builtins.{entry.__name__}': entry for entry in (bytearray, complex, set)},
    'collections.Counter': Counter,
    'torch.device': torch.device,
    **{str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)},
    **{
        f'torch._utils.{name}': getattr(torch._utils, name)
        for name in ('_rebuild_parameter_with_state', '_rebuild_tensor_v3')
        + ('_rebuild_device_tensor_from_numpy', '_rebuild_device_tensor_from_cpu_tensor')
        if hasattr(torch._utils, name)
    },
}
ADVICE = '; if it is a class of your own that only holds data, allow it with torch.serialization.add_safe_globals'
USERS_ALLOW = hasattr(torch.serialization, 'add_safe_globals')  # torch >= 2.4

BLOCKED = ('sys', 'os', 'posix', 'nt')  # as torch has it: not even a user can allow these modules

# the operations that torch's files are made of, besides those that SafeUnpickler checks
OPERATIONS = (
    (pickle.PROTO, pickle.MARK, pickle.STOP, pickle.GLOBAL)
    + (pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BINUNICODE, pickle.SHORT_BINSTRING)
    + (pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1, pickle.BINFLOAT)
    + (pickle.EMPTY_TUPLE, pickle.EMPTY_LIST, pickle.EMPTY_DICT, pickle.EMPTY_SET)
    + (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)
    + (pickle.BINGET, pickle.LONG_BINGET, pickle.BINPUT, pickle.LONG_BINPUT)
)

# the operations that put items into a container: its place on the stack, or below the mark, and what it may be
DICTS = (dict, OrderedDict, Counter)
PUT_ITEMS = {
    pickle.APPEND[0]: (-2, (list,)),
    pickle.APPENDS[0]: (None, (list,)),
    pickle.SETITEM[0]: (-3, DICTS),
    pickle.SETITEMS[0]: (None, DICTS),
}


def allowed_objects() -> dict[str, Any]:
    """What a file may name: ours before torch's before those of ``torch.serialization.add_safe_globals``."""
    entries: list = getattr(torch.serialization, 'get_safe_globals', list)()  # torch >= 2.4
    named = [entry[::-1] if isinstance(entry, tuple) else (_full_name(entry), entry) for entry in entries]
    users = {name: entry for name, entry in named if name.split('.')[0] not in BLOCKED}
    return {**users, **OF_LATER_TORCH, **torch._weights_only_unpickler._get_allowed_globals(), **STAND_INS}


def _full_name(entry: Any) -> str:
    return f'{entry.__module__}.{entry.__qualname__}'


_PythonUnpickler: Any = pickle._Unpickler  # whose methods the type stubs do not know


class _Operations(dict):
    def __missing__(self, operation: int) -> Any:
        raise Refused(
            'unsupported-protocol',
            'is damaged, or of a pickle protocol that torch does not load as mere data; download it again, or save it '
            'again with torch.save and its default protocol',
        )


def _put_items(unpickler: Any, operation: int) -> None:
    position, types = PUT_ITEMS[operation]
    target = unpickler.stack[position] if position else unpickler.metastack[-1][-1]
    if type(target) not in types:
        raise may_not(f'put items into an object of type {type(target).__name__}')
    _PythonUnpickler.dispatch[operation](unpickler)


PUTS = {operation: partial(_put_items, operation=operation) for operation in PUT_ITEMS}


class SafeUnpickler(_PythonUnpickler):
    """Unpickles what the allowed objects are made of; each operation that could do more checks its operands.

    Attributes:
        sparse: list that gets each sparse tensor, to be validated once its storage is filled.
    """

    sparse: list[Tensor]
    dispatch = _Operations((code[0], _PythonUnpickler.dispatch[code[0]]) for code in OPERATIONS)

    def __init__(self, file: IO[bytes], **kwargs: Any) -> None:
        super().__init__(file, **kwargs)
        self.allowed = allowed_objects()
        self.callables = {id(entry) for entry in self.allowed.values()}

    def find_class(self, module: str, name: str) -> Any:
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        full_name = f'{module}.{name}'
        if full_name in self.allowed:
            return self.allowed[full_name]
        if module == 'builtins' or module in BLOCKED:
            raise runs_code(full_name.removeprefix('builtins.'))
        raise runs_code(full_name, ADVICE if USERS_ALLOW else '')

    def _check_callable(self, function: Any) -> None:
        if id(function) not in self.callables:
            raise may_not(f'call {function!r:.100}')

    def load_reduce(self) -> None:
        function, arguments = self.stack[-2:]
        self._check_callable(function)
        if function is torch._tensor._rebuild_from_type_v2:  # calls the first, and sets attributes of what it returns
            rebuild, tensor_type, *_ = arguments
            self._check_callable(rebuild)
            if rebuild is function:
                raise may_not('rebuild a tensor by itself')
            if not (isinstance(tensor_type, type) and issubclass(tensor_type, Tensor)):
                raise may_not(f'rebuild {tensor_type!r:.50} as a tensor')
        self._make(super().load_reduce)

    def load_newobj(self) -> None:
        self._check_callable(self.stack[-2])
        self._make(super().load_newobj)

    def _make(self, operation: Callable[[], None]) -> None:
        operation()
        if isinstance(self.stack[-1], Tensor) and self.stack[-1].layout != torch.strided:
            self.sparse.append(self.stack[-1])

    def load_build(self) -> None:
        target, state = self.stack[-2:]
        if type(target) is Tensor:  # before torch 0.4; Tensor.__setstate__ would take hooks from the file
            target.set_(*self.stack.pop())
            return
        self._check_callable(type(target))
        if isinstance(state, tuple) and not {'__setstate__', '__slots__'} & {*dir(type(target))}:
            raise may_not(f'set slots of its {type(target).__name__}')  # by setattr, `__class__` too
        super().load_build()

    def load_binpersid(self) -> None:
        place = self.stack[-1]
        if not isinstance(place, tuple) or place[:1] not in (('storage',), (b'storage',)):
            raise may_not(f'refer to {place!r:.50}, which is not a storage')
        super().load_binpersid()

    dispatch.update(
        {
            pickle.REDUCE[0]: load_reduce,
            pickle.NEWOBJ[0]: load_newobj,
            pickle.BUILD[0]: load_build,
            pickle.BINPERSID[0]: load_binpersid,
            **PUTS,
        }
    )


# ---------------------------------------------------------------- loading


class CheckedReader:
    """A reader of torch's zip archives that compares a storage with its record, as torch >= 2.10 does by itself.

    Earlier ones make a storage of the size that the pickle names, which would read memory behind a shorter record.
    """

    def __init__(self, archive: Any) -> None:
        self.archive = archive

    def __getattr__(self, name: str) -> Any:
        return getattr(self.archive, name)

    def get_storage_from_record(self, name: str, size: int, storage_type: type) -> Tensor:
        found = len(self.archive.get_record(name))
        if found != size:
            raise ValueError(f'{name} has {found} bytes, not {size}')
        return self.archive.get_storage_from_record(name, size, storage_type)


def load(stream: IO[bytes], map_location: Any = None) -> Any:
    """Reads a file of ``torch.save`` as tensors and plain data.

    torch's readers are called by themselves: ``torch.load`` takes no ``pickle_module`` while
    TORCH_FORCE_WEIGHTS_ONLY_LOAD is set.

    Raises:
        Refused: if the file asks for anything else.
        Exception: of all types, whatever torch raises over damaged files.
    """
    sparse: list[Tensor] = []
    unpickler = type('Unpickler', (SafeUnpickler,), dict(sparse=sparse))
    pickle_module = SimpleNamespace(
        Unpickler=unpickler, load=lambda file, **kwargs: unpickler(file, **kwargs).load(), __name__=__name__
    )
    rewind(stream)
    zipped = stream.read(4) == b'PK\x03\x04'  # torch's own rule
    stream.seek(0)
    if zipped:
        archive = torch._C.PyTorchFileReader(stream)
        if 'constants.pkl' in archive.get_all_records():
            raise Refused(
                'torchscript', 'is a TorchScript program, not a checkpoint; get a file that only holds weights'
            )
        reader = archive if TORCH_CHECKS_SIZES else CheckedReader(archive)
        content = torch.serialization._load(reader, map_location, pickle_module, encoding='utf-8')
    else:
        content = torch.serialization._legacy_load(stream, map_location, pickle_module, encoding='utf-8')
    for tensor in sparse:
        _validate(tensor)
    return _settled(content)


def rewind(stream: IO[bytes]) -> int:
    """Goes to the beginning of a stream, and returns its size in bytes.

    torch reads storages from the file descriptor, past the buffer of ``stream``; going to the end empties that.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    return size


def _validate(tensor: Tensor) -> None:
    """Raises RuntimeError where a sparse tensor has indices outside of its size: it would read foreign memory."""
    if tensor.layout == torch.sparse_coo:
        torch.sparse_coo_tensor(tensor._indices(), tensor._values(), tensor.size(), check_invariants=True)
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr, torch.sparse_csc, torch.sparse_bsc):
        by_row = tensor.layout in (torch.sparse_csr, torch.sparse_bsr)
        indices = (
            (tensor.crow_indices(), tensor.col_indices()) if by_row else (tensor.ccol_indices(), tensor.row_indices())
        )
        torch.sparse_compressed_tensor(
            *indices, tensor.values(), tensor.size(), layout=tensor.layout, check_invariants=True
        )


# ---------------------------------------------------------------- afterwards


def _settled(content: Any) -> Any:
    """``content`` with plain NumPy instead of stand-ins, without attributes that hide a method.

    A file may set attributes of dicts and tensors: after ``checkpoint.get = …`` a caller's ``get`` is the file's.
    """
    whole = [content]
    seen: dict[int, Any] = {}
    plain: dict[int, Any] = {}
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
        extra = [name for name in attributes if isinstance(value, Tensor) and hasattr(type(value), str(name))]
    if extra:
        raise may_not(f'set the attribute {extra[0]!r:.50} of its {type(value).__name__}')


def _plain(value: Any, known: dict[int, Any]) -> Any:
    """``value``, or what a user expects in its place, the same one each time. ``known`` remembers."""
    if type(value) not in (tuple, NumberArray, NumberType):
        return value
    if id(value) not in known:
        made: Any
        if type(value) is tuple:
            parts = tuple(_plain(part, known) for part in value)
            made = value if all(new is old for new, old in zip(parts, value)) else parts
        else:
            made = value.dtype if type(value) is NumberType else value.view(np.ndarray)
        known[id(value)] = made, value  # kept, for its id to stay its own
    return known[id(value)][0]

"""Files that try to run something, to forge memory or to change objects of the process are refused.

The payloads are real: read by a plain ``pickle.load`` most of them leave a mark, which the first test shows.
"""

import argparse
import codecs
import collections
import os
import pickle
import re
import struct
import threading
import warnings
import zipfile
from collections import OrderedDict
from contextlib import suppress

import numpy as np
import pytest
import torch
from helpers.payloads import RECONSTRUCT, SCALAR, Does, WithAttributes, hidden_payloads, leaves_a_mark
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from apa_mmdet.checkpoint import safe_unpickler
from apa_mmdet.checkpoint.io import BadCheckpoint, load_as_data
from apa_mmdet.checkpoint.stand_ins import STAND_INS

NAMES = list(hidden_payloads('mark'))


@pytest.mark.parametrize('name', sorted({*NAMES} - {'as an array', 'later'}))
def test_the_payloads_work(tmp_path, name):
    with suppress(Exception):  # after the call
        pickle.loads(pickle.dumps(hidden_payloads(tmp_path / 'mark')[name], protocol=2))
    for _ in range(500):  # Popen does not wait
        if (tmp_path / 'mark').exists():
            return
        threading.Event().wait(0.01)
    pytest.fail('left no mark')


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
@pytest.mark.parametrize('name', NAMES)
def test_a_payload_is_refused_by_name(tmp_path, name, zipped):
    path, mark = tmp_path / 'file.pth', tmp_path / 'mark'
    torch.save(
        dict(state_dict=dict(a=torch.ones(2)), x=hidden_payloads(mark)[name]),
        path,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(BadCheckpoint) as refused:
        load_as_data(path)
    assert refused.value.code == 'runs-code'
    assert re.fullmatch(
        rf'{path} is refused, because loading it would run code \(.+\); get a file that only holds weights'
        '(; if it is a class of your own that only holds data, allow it with torch.serialization.add_safe_globals)?',
        str(refused.value),
    )
    assert not mark.exists()


def number_type(code, *state):
    return Does(np.dtype, (code, False, True), *state)


def array(kind, data, shape=(2,)):
    return Does(RECONSTRUCT, (np.ndarray, (0,), b'b'), (1, shape, kind, False, data))


PLAIN = 3, '<', None, None, None, -1, -1, 0
FORGED = {  # with NumPy's own functions in their place, the first ends the process, and others read foreign memory
    'objects in a buffer': Does(np.ndarray, ((2,), 'O', bytearray(16))),
    'objects': array(number_type('O8'), [1, 2]),
    'flags': array(number_type('f8', (*PLAIN[:-1], 63)), [1, 2]),
    'a type of many numbers': array(
        number_type('f8', (3, '<', (number_type('f8', PLAIN), (10**6,)), *PLAIN[3:])), bytes(16)
    ),
    'fields': array(
        number_type('f8', (*PLAIN[:3], ('a',), dict(a=(number_type('f8', PLAIN), 10**6)), *PLAIN[5:])), bytes(16)
    ),
    'nothing for data': array(number_type('f8', PLAIN), None),
    'uninitialised memory': Does(np.ndarray, ((4,), 'f8')),
    'a scalar of objects': Does(SCALAR, (number_type('O8'), b'12345678')),
}


@pytest.mark.parametrize('name', FORGED)
def test_forged_numpy_data_are_refused(tmp_path, name):
    path = tmp_path / 'file.pth'
    torch.save(dict(x=FORGED[name]), path)
    with pytest.raises(BadCheckpoint, match=r'would run code \(a checkpoint may not '):
        load_as_data(path)


@pytest.mark.parametrize(
    'value',
    [
        array(number_type('f8', PLAIN), bytes(8)),
        array(number_type('f8', PLAIN), bytes(16), (-2,)),
        array(number_type('f8', PLAIN), bytes(16), (2**62, 2**62)),
        Does(SCALAR, (number_type('f8', PLAIN), bytes(16))),
        Does(SCALAR, (number_type('f8', PLAIN), b'')),
        Does(bytearray, (2**62,)),
    ],
)
def test_numpy_data_that_contradict_themselves_are_damage(tmp_path, value):
    path = tmp_path / 'file.pth'
    torch.save(dict(x=value), path)
    with pytest.raises(
        (BadCheckpoint, MemoryError),
        match='is cut short, damaged or not a checkpoint|bytearray|^.*file.pth needs more memory',
    ):
        load_as_data(path)


def test_what_mmengine_saves_is_read_and_can_be_saved_again(tmp_path):
    values = [
        np.arange(6.0).reshape(2, 3),
        np.arange(6).reshape(2, 3).T,
        np.zeros((0, 3)),
        np.array(True),
        np.array([1, 2], '>i2'),
        np.float32(0.5),
        np.uint8(3),
        np.bool_(True),
        np.array(7.0),
    ]
    log = HistoryBuffer([1.0, 2.0, 4.0], [1, 1, 2])
    content = dict(
        values=values,
        log=log,
        empty=HistoryBuffer(),
        args=argparse.Namespace(lr=0.1),
        weights=torch.nn.Parameter(torch.arange(3.0)),
        state=OrderedDict(a=torch.ones(2).half()),
    )
    for _ in range(2):
        torch.save(content, tmp_path / 'file.pth')
        content = load_as_data(tmp_path / 'file.pth', 'cpu')
        for got, value in zip(content['values'], values):
            assert (
                isinstance(got, type(value))
                and np.array_equal(got, value)
                and got.dtype == value.dtype.newbyteorder('=')
            )
        assert (
            content['log'].mean() == 7 / 4
            and content['log'].statistics('max') == 4
            and len(content['empty'].data[0]) == 0
        )
        content['log'].update(8.0)
        assert content['log'].current() == 8
        content['log'] = HistoryBuffer(*(column[:3] for column in content['log'].data))
        assert content['args'] == argparse.Namespace(lr=0.1)
        assert torch.equal(content['weights'], torch.arange(3.0)) and content['state']['a'].dtype == torch.float16
    assert b'apa_mmdet' not in (tmp_path / 'file.pth').read_bytes()


@pytest.mark.parametrize('name', ['get', 'pop', 'items', 'copy'])
@pytest.mark.parametrize('kind', [OrderedDict, collections.Counter])
@pytest.mark.parametrize(
    'place', [lambda value: value, lambda value: dict(meta=value), lambda value: [(dict(a={1: value}),)]]
)
def test_attributes_that_hide_the_methods_of_a_dict(tmp_path, kind, name, place):
    torch.save(place(WithAttributes(kind(), **{name: codecs.encode})), tmp_path / 'file.pth')
    with pytest.raises(
        BadCheckpoint, match=rf"\(a checkpoint may not set the attribute '{name}' of its {kind.__name__}\)"
    ):
        load_as_data(tmp_path / 'file.pth')


def test_what_torch_sets_on_state_dicts_and_parameters_stays(tmp_path):
    state, parameter = torch.nn.Linear(1, 1).state_dict(), torch.nn.Parameter(torch.ones(2))
    parameter.no_decay = True
    torch.save(dict(state_dict=state, parameter=parameter), tmp_path / 'file.pth')
    content = load_as_data(tmp_path / 'file.pth')
    assert content['state_dict']._metadata == state._metadata and content['parameter'].no_decay


@pytest.mark.parametrize('attribute', ['isfinite', 'copy_'])
def test_attributes_that_hide_the_methods_of_a_tensor(tmp_path, attribute):
    parameter = torch.nn.Parameter(torch.ones(2))
    setattr(parameter, attribute, codecs.encode)
    torch.save(dict(a=parameter), tmp_path / 'file.pth')
    with pytest.raises(BadCheckpoint, match=rf"set the attribute '{attribute}' of its Parameter\)"):
        load_as_data(tmp_path / 'file.pth')


def pickled(*parts):
    """Operations of a pickle; the texts among them as such."""
    return b''.join(
        b'X' + struct.pack('<I', len(part)) + part.encode() if isinstance(part, str) else part for part in parts
    )


def test_an_array_is_filled_once(tmp_path):
    """Filled again, it lets go of memory that a tensor was made of."""
    of_bytes = pickled(
        b'cnumpy\ndtype\n', 'u1', b'\x89\x88\x87R(K\x03', '|', b'NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb'
    )

    def state(size):
        return pickled(
            b'(K\x01K', bytes([size]), b'\x85', of_bytes, b'\x89c_codecs\nencode\n', 'A' * size, 'latin1', b'\x86Rtb'
        )

    array = pickled(
        f'c{RECONSTRUCT.__module__}\n_reconstruct\ncnumpy\nndarray\nK\x00\x85'.encode('latin1'),
        'b',
        b'\x87Rq\x01',
        state(200),
    )
    tensor = pickled(b'ctorch._utils\n_rebuild_device_tensor_from_numpy\n(h\x01ctorch\nuint8\n', 'cpu', b'\x89tR')
    torch.save({}, tmp_path / 'sound.pth')
    for name, again in (('once', b''), ('twice', pickled('c', b'h\x01', state(1)))):
        with zipfile.ZipFile(tmp_path / 'sound.pth') as sound, zipfile.ZipFile(tmp_path / name, 'w') as file:
            for entry in sound.namelist():
                harmed = pickled(b'\x80\x02}(', 'a', array, 'b', tensor, again, b'u.')
                file.writestr(entry, harmed if entry.endswith('data.pkl') else sound.read(entry))
    content = load_as_data(tmp_path / 'once')
    assert type(content['a']) is np.ndarray and content['b'].tolist() == [65] * 200
    with pytest.raises(BadCheckpoint, match='may not fill a NumPy array twice'):
        load_as_data(tmp_path / 'twice')


@pytest.mark.parametrize(
    'state, line',
    [
        (
            dict(statistics_methods=dict(mean=HistoryBuffer.max)),
            "may not set the statistic 'mean' of logs, which is another one here",
        ),
        (
            dict(statistics_methods=dict(new=HistoryBuffer.max)),
            "may not set the statistic 'new' of logs, which is another one here or none",
        ),
        (dict(mean=codecs.encode), "may not set the attribute 'mean' of a log"),
        (dict(_log_history=[1]), 'may not hold a log of anything but numbers'),
    ],
)
def test_a_file_does_not_change_the_logs_of_the_process(tmp_path, state, line, monkeypatch):
    before, log = dict(HistoryBuffer._statistics_methods), HistoryBuffer([1.0, 5.0], [1, 1])
    monkeypatch.setattr(HistoryBuffer, '__getstate__', lambda self: {**vars(self), **state})
    torch.save(dict(x=log), tmp_path / 'file.pth')
    with pytest.raises(BadCheckpoint, match=line):
        load_as_data(tmp_path / 'file.pth')
    assert HistoryBuffer._statistics_methods == before


@pytest.mark.parametrize(
    'value, line',
    [
        (np.array(['a']), "of the type 'U1', text, of which"),
        (np.complex64(1j), "of the type 'c8', complex numbers, of which"),
        (np.datetime64('2020'), "of the type 'M8', dates, of which"),
    ],
)
def test_other_numpy_data_are_called_what_they_are(tmp_path, value, line):
    torch.save(dict(x=value), tmp_path / 'file.pth')
    with pytest.raises(
        BadCheckpoint,
        match=f'file.pth holds NumPy data {line} only booleans, integers and floating-point numbers are '
        'read; save them as plain Python values$',
    ):
        load_as_data(tmp_path / 'file.pth')


def test_the_rest_of_a_checkpoint_is_as_it_was_saved(tmp_path):
    shared = np.arange(3.0)
    content = dict(
        meta=ConfigDict(info=dict(x=1), names=('a', 'b')),
        rng=('MT19937', shared, (shared, 1)),
        kind=np.dtype('f8'),
        args=argparse.Namespace(a=shared),
        log=HistoryBuffer([1.0], [1]),
    )
    for _ in range(2):
        torch.save(content, tmp_path / 'file.pth')
        content = load_as_data(tmp_path / 'file.pth')
    assert type(content['meta']) is type(content['meta'].info) is ConfigDict and content['meta'] == dict(
        info=dict(x=1), names=('a', 'b')
    )
    arrays = [content['rng'][1], content['rng'][2][0], content['args'].a]
    assert all(array is arrays[0] and type(array) is np.ndarray for array in arrays) and arrays[0].tolist() == [0, 1, 2]
    assert (
        content['kind'] == np.float64
        and type(content['log']) is HistoryBuffer
        and type(content['log'].data[0]) is np.ndarray
    )


# ---------------------------------------------------------------- what may be named, and by whom


class LooksUp:
    """A pickle that fetches an attribute through getattr, as MMEngine's checkpoints do."""

    def __init__(self, owner, name):
        self.owner, self.name = owner, name

    def __reduce__(self):
        return getattr, (self.owner, self.name)


@pytest.mark.parametrize(
    'owner, name',
    [(HistoryBuffer, '__init__'), (HistoryBuffer, '__class__'), (np.ndarray, 'tofile'), (dict, 'fromkeys')],
)
def test_a_checkpoint_may_not_look_up_other_attributes(tmp_path, owner, name):
    torch.save(LooksUp(owner, name), tmp_path / 'file.pth')
    with pytest.raises(BadCheckpoint, match=rf"\(a checkpoint may not look up '{name}' of |\(dict\)"):
        load_as_data(tmp_path / 'file.pth')


@pytest.mark.parametrize(
    'operations, line',
    [
        (b'c_codecs\nencode\n' + b'(c_codecs\nencode\nc_codecs\nencode\ntR\x85R', 'encode|must be str'),
        (b'c_codecs\nencode\n' + b'K\x01\x85R' + b'K\x01\x85R', 'must be str|encode'),
        (b'K\x01K\x02\x85R', 'may not call 1'),
        (b'K\x01K\x02\x85\x81', 'may not call 1'),
        (b'K\x01}b', "may not call <class 'int'>"),
        (b'cbuiltins\nbytearray\n)RK\x01a', 'may not put items into an object of type bytearray'),
        (b'cbuiltins\nbytearray\n)R(K\x01e', 'may not put items into an object of type bytearray'),
        (b'cbuiltins\nset\n)RK\x01K\x02s', 'may not put items into an object of type set'),
        (b'cbuiltins\nset\n)R(K\x01K\x02u', 'may not put items into an object of type set'),
        (
            b'cargparse\nNamespace\n)R(N}X\x09\0\0\0__class__cmmengine.logging.history_buffer\nHistoryBuffer\nstb',
            'may not set slots of its Namespace',
        ),
        (
            b'ctorch._tensor\n_rebuild_from_type_v2\n(cargparse\nNamespace\ncargparse\nNamespace\n)}tR',
            "may not rebuild <class 'argparse.Namespace'> as a tensor",
        ),
        (
            b'cargparse\nNamespace\n)R}X\x09\0\0\0__slots__)sb(N}X\x09\0\0\0__class__cargparse\nNamespace\nstb',
            'may not set slots of its Namespace',
        ),
        (
            b'ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._tensor\n_rebuild_from_type_v2\nctorch\nTensor\n)}tR',
            'may not rebuild a tensor by itself',
        ),
        (b'ctorch._tensor\n_rebuild_from_type_v2\n(K\x01ctorch\nTensor\n)}tR', 'may not call 1'),
        (b'(X\x06\0\0\0modulec_codecs\nencode\ntQ', 'may not refer to'),
    ],
)
def test_operations_check_what_they_are_given(tmp_path, operations, line):
    torch.save({}, tmp_path / 'sound.pth')
    with zipfile.ZipFile(tmp_path / 'sound.pth') as sound, zipfile.ZipFile(tmp_path / 'file.pth', 'w') as file:
        for entry in sound.namelist():
            harmed = b'\x80\x02' + operations + b'.'
            file.writestr(entry, harmed if entry.endswith('data.pkl') else sound.read(entry))
    with pytest.raises(BadCheckpoint, match=line):
        load_as_data(tmp_path / 'file.pth')


users_allow = pytest.mark.skipif(
    not hasattr(torch.serialization, 'safe_globals'), reason='a torch in which users cannot allow classes'
)


class Slotted:
    __slots__ = ('a',)

    def __init__(self):
        self.a = 1


@users_allow
def test_a_class_with_slots_can_be_allowed(tmp_path):
    torch.save(dict(a=Slotted()), tmp_path / 'file.pth')
    with torch.serialization.safe_globals([Slotted]):
        assert load_as_data(tmp_path / 'file.pth')['a'].a == 1


@pytest.mark.parametrize('torch_checks', [True, False])
def test_a_storage_larger_than_its_record_is_damage(tmp_path, torch_checks, monkeypatch):
    """Before torch 2.10 it would read memory behind the record."""
    monkeypatch.setattr(safe_unpickler, 'TORCH_CHECKS_SIZES', torch_checks and safe_unpickler.TORCH_CHECKS_SIZES)
    torch.save(dict(a=torch.arange(4.0)), tmp_path / 'sound.pth')
    with zipfile.ZipFile(tmp_path / 'sound.pth') as sound, zipfile.ZipFile(tmp_path / 'file.pth', 'w') as file:
        for entry in sound.namelist():
            file.writestr(entry, sound.read(entry).replace(b'K\x04', b'J\0\0\x10\0'))
    assert load_as_data(tmp_path / 'sound.pth')['a'].tolist() == [0, 1, 2, 3]
    with pytest.raises(BadCheckpoint, match='16 bytes') as refused:
        load_as_data(tmp_path / 'file.pth')
    assert refused.value.code == 'damaged'


def test_the_real_getattr_and_eval_are_not_allowed():
    assert not {getattr, eval, exec, np.ndarray, np.dtype, HistoryBuffer} & {*STAND_INS.values()}


def twice_the_last(buffer):
    return 2 * buffer.current()


@users_allow
def test_a_users_own_statistic_is_named_and_can_be_allowed(tmp_path):
    HistoryBuffer.register_statistics(twice_the_last)
    try:
        torch.save(dict(logs=HistoryBuffer([1.0, 3.0], [1, 1])), tmp_path / 'file.pth')
        with pytest.raises(
            BadCheckpoint, match=r'twice_the_last\); .* allow it with torch.serialization.add_safe_globals$'
        ):
            load_as_data(tmp_path / 'file.pth')
        for entry in (twice_the_last, (twice_the_last, f'{__name__}.twice_the_last')):
            with torch.serialization.safe_globals([entry]):
                assert load_as_data(tmp_path / 'file.pth')['logs'].statistics('twice_the_last') == 6
    finally:
        del HistoryBuffer._statistics_methods['twice_the_last']


@users_allow
def test_modules_that_torch_blocks_cannot_be_allowed(tmp_path):
    torch.save(dict(a=Does(*leaves_a_mark(tmp_path / 'mark'))), tmp_path / 'file.pth')
    with torch.serialization.safe_globals([os.system]), pytest.raises(BadCheckpoint, match='system'):
        load_as_data(tmp_path / 'file.pth')
    assert not (tmp_path / 'mark').exists()


@users_allow
def test_stand_ins_come_before_what_a_user_allows(tmp_path):
    theirs = [np.ndarray, np.dtype, np.zeros(0).__reduce__()[0], (getattr, 'builtins.getattr')]
    torch.save(dict(a=np.eye(2)), tmp_path / 'array.pth')
    torch.save(LooksUp(np.ndarray, 'tofile'), tmp_path / 'lookup.pth')
    with torch.serialization.safe_globals(theirs):
        assert type(load_as_data(tmp_path / 'array.pth')['a']) is np.ndarray
        with pytest.raises(BadCheckpoint, match="may not look up 'tofile'"):
            load_as_data(tmp_path / 'lookup.pth')


def test_loading_changes_nothing_that_other_threads_see(tmp_path):
    torch.save(dict(a=torch.ones(2), b=np.eye(2), c=HistoryBuffer([1.0], [1])), tmp_path / 'file.pth')

    def state():
        return (
            torch.load,
            {*getattr(torch.serialization, 'get_safe_globals', list)()},
            torch.sparse.check_sparse_tensor_invariants.is_enabled(),
            list(warnings.filters),
        )

    before, during = state(), []
    load_as_data(tmp_path / 'file.pth', lambda storage, location: during.append(state()))
    assert during == [before] and state() == before


def test_what_numpy_1_wrote_loads(tmp_path):
    path = tmp_path / 'file.pth'
    torch.save(dict(a=np.eye(2), b=np.float32(0.5)), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b'cnumpy._core.multiarray', b'cnumpy.core.multiarray'))
    loaded = load_as_data(path)
    assert np.array_equal(loaded['a'], np.eye(2)) and loaded['b'] == 0.5

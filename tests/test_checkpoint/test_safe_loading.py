"""No file of weights gets to run anything, whichever way it is read.

The payloads are real: read by a plain ``pickle.load`` most of them leave a mark, which the first test shows.
"""

import argparse
import codecs
import collections
import functools
import http.server
import io
import os
import pickle
import re
import runpy
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections import OrderedDict
from contextlib import suppress

import numpy as np
import pytest
import torch
from helpers.paths import ROOT
from helpers.shrink_config import shrunk
from mmdet.apis import DetInferencer, init_detector
from mmengine.config import Config, ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import FlexibleRunner, Runner, load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from apa_mmdet.apis.convert_weights import convert_file
from apa_mmdet.apis.det_inferencer import StrictDetInferencer
from apa_mmdet.checkpoint.io import BadCheckpoint, load_as_data, read_checkpoint
from apa_mmdet.datasets.tiny_lvis.generate import make_tiny_lvis
from apa_mmdet.visualization.learned_activation_plots import draw_checkpoint

TINY = ROOT / 'configs/tiny_lvis/mask_rcnn_se_r18_apa.py'
RECONSTRUCT, SCALAR = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]


class Does:
    """A pickle that calls something, and may then fill in the result."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


def leaves_a_mark(mark):
    """Something to be called with nothing, and the call."""
    return os.system, (f'touch {mark}',)


# ---------------------------------------------------------------- what a file may try


def hidden_payloads(mark):
    """Name: a value that runs ``touch mark`` when it is unpickled."""
    call = Does(*leaves_a_mark(mark))
    return {
        'system': call,
        'eval': Does(eval, (f'open({str(mark)!r}, "w")',)),
        'exec': Does(exec, (f'open({str(mark)!r}, "w")',)),
        'popen': Does(subprocess.Popen, (['touch', str(mark)],)),
        'later': Does(map, (os.system, [f'touch {mark}'])),
        'looked up': [Does(getattr, (np.ndarray, 'tofile')), call],
        'in a log': Does(HistoryBuffer, (), dict(_statistics_methods=dict(mean=call))),
        'in arguments': Does(argparse.Namespace, (), dict(lr=call)),
        'as a dtype': Does(RECONSTRUCT, (np.ndarray, (0,), b'b'), (1, (1,), call, False, b'1')),
        'as an array': Does(RECONSTRUCT, (subprocess.Popen, (['touch', str(mark)],), b'b')),
        'as a key': {Does(*leaves_a_mark(mark)): 1},
        'as an encoding': Does(codecs.encode, ('a', call)),
        'as an ordered dict': Does(OrderedDict, ([(call, 1)],)),
        'as a state': Does(HistoryBuffer, (), (None, dict(__class__=call))),
        'as a tensor': Does(torch._utils._rebuild_tensor_v2, (call, 0, (1,), (1,), False, OrderedDict())),
    }


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


@pytest.fixture(params=['weights-only', 'torch before 2.4'])
def reader(request, monkeypatch):
    """Both ways of loading data alone: torch's and, for a torch that can allow nothing, ours."""
    if request.param != 'weights-only':
        monkeypatch.delattr(torch.serialization, 'add_safe_globals')
    return request.param


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
@pytest.mark.parametrize('name', NAMES)
def test_a_payload_is_refused_by_name(tmp_path, reader, name, zipped):
    path, mark = tmp_path / 'file.pth', tmp_path / 'mark'
    torch.save(
        dict(state_dict=dict(a=torch.ones(2)), x=hidden_payloads(mark)[name]),
        path,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(BadCheckpoint) as refused:
        load_as_data(path)
    assert re.fullmatch(
        rf'{path} is refused, because loading it would run code \(.+\); get a file that holds weights alone'
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
def test_forged_numpy_data_are_refused(tmp_path, reader, name):
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
def test_numpy_data_that_contradict_themselves_are_damage(tmp_path, reader, value):
    path = tmp_path / 'file.pth'
    torch.save(dict(x=value), path)
    with pytest.raises(
        (BadCheckpoint, MemoryError),
        match='is cut short, damaged or no checkpoint|bytearray|^.*file.pth needs more memory',
    ):
        load_as_data(path)


def test_what_mmengine_saves_is_read_and_can_be_saved_again(tmp_path, reader):
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


# ---------------------------------------------------------------- what a file may try without running anything


class WithAttributes:
    """A pickle of ``value`` on which attributes are set."""

    def __init__(self, value, **attributes):
        self.reduced = (*value.__reduce_ex__(2)[:2], attributes)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize('name', ['get', 'pop', 'items', 'copy'])
@pytest.mark.parametrize('kind', [OrderedDict, collections.Counter])
@pytest.mark.parametrize(
    'place', [lambda value: value, lambda value: dict(meta=value), lambda value: [(dict(a={1: value}),)]]
)
def test_attributes_that_hide_the_methods_of_a_dict(tmp_path, reader, kind, name, place):
    torch.save(place(WithAttributes(kind(), **{name: codecs.encode})), tmp_path / 'file.pth')
    with pytest.raises(
        BadCheckpoint, match=rf"\(a checkpoint may not set the attribute '{name}' of its {kind.__name__}\)"
    ):
        load_as_data(tmp_path / 'file.pth')


def test_what_torch_sets_on_state_dicts_and_parameters_stays(tmp_path, reader):
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


def test_an_array_is_filled_once(tmp_path, reader):
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
def test_a_file_does_not_change_the_logs_of_the_process(tmp_path, reader, state, line, monkeypatch):
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
def test_other_numpy_data_are_called_what_they_are(tmp_path, reader, value, line):
    torch.save(dict(x=value), tmp_path / 'file.pth')
    with pytest.raises(
        BadCheckpoint,
        match=f'file.pth holds NumPy data {line} only booleans, integers and floating-point numbers are '
        'read; save them as plain Python values$',
    ):
        load_as_data(tmp_path / 'file.pth')


def test_the_rest_of_a_checkpoint_is_as_it_was_saved(tmp_path, reader):
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


# ---------------------------------------------------------------- what is not the file's fault


def test_a_sound_file_that_does_not_fit_here_is_not_called_damaged(tmp_path):
    torch.save(dict(a=torch.ones(3)), tmp_path / 'file.pth')

    def full(storage, location):
        raise torch.cuda.OutOfMemoryError('CUDA out of memory')

    def faulty(storage, location):
        raise NameError('storge')

    for where, kind, line in (
        (full, torch.cuda.OutOfMemoryError, 'CUDA out of memory'),
        (faulty, NameError, 'storge'),
        (dict(cpu='nowhere:0'), RuntimeError, 'nowhere'),
    ):
        for file in (str(tmp_path / 'file.pth'), io.BytesIO((tmp_path / 'file.pth').read_bytes())):
            with pytest.raises(kind, match=line):
                load_as_data(file, where)


@pytest.mark.skipif(torch.cuda.is_available(), reason='needs a machine without')
def test_a_file_of_a_gpu_on_a_machine_without(tmp_path):
    torch.save(dict(a=torch.ones(3)), tmp_path / 'cpu.pth')
    with zipfile.ZipFile(tmp_path / 'cpu.pth') as sound, zipfile.ZipFile(tmp_path / 'gpu.pth', 'w') as file:
        for entry in sound.namelist():
            file.writestr(entry, sound.read(entry).replace(b'X\3\0\0\0cpu', b'X\6\0\0\0cuda:0'))
    for path, where in (('gpu.pth', None), ('cpu.pth', 'cuda')):
        with pytest.raises(RuntimeError, match='on a CUDA device but torch.cuda.is_available'):
            CheckpointLoader.load_checkpoint(str(tmp_path / path), where)
    assert CheckpointLoader.load_checkpoint(str(tmp_path / 'gpu.pth'), 'cpu')['a'].tolist() == [1, 1, 1]


class Mine:
    """Something that only unsafe loading gives."""


def test_other_threads_load_as_before_while_mmengine_loads(tmp_path):
    torch.save(dict(a=1), tmp_path / 'sound.pth')
    torch.save(Mine(), tmp_path / 'mine.pth')
    inside, leave, errors, before = threading.Barrier(3), threading.Event(), [], torch.load

    @CheckpointLoader.register_scheme('waiting://', force=True)
    def load(path, map_location=None):
        inside.wait(20)
        leave.wait(20)
        try:
            torch.load(tmp_path / 'mine.pth', weights_only=False)
        except BadCheckpoint as error:
            errors.append(error)
        return torch.load(tmp_path / 'sound.pth')

    try:
        threads = [
            threading.Thread(target=CheckpointLoader.load_checkpoint, args=(f'waiting://{i}',)) for i in range(2)
        ]
        for thread in threads:
            thread.start()
        inside.wait(20)
        for how in (dict(weights_only=False), dict(pickle_module=pickle, weights_only=False)):
            assert isinstance(torch.load(tmp_path / 'mine.pth', **how), Mine)
        leave.set()
        for thread in threads:
            thread.join(20)
    finally:
        del CheckpointLoader._schemes['waiting://']
    assert len(errors) == 2 and torch.load is before
    assert isinstance(torch.load(tmp_path / 'mine.pth', 'cpu', pickle, weights_only=False), Mine)


# ---------------------------------------------------------------- files of another kind


def a_tar(path, payload):
    """As torch saved before 2017; torch before 2.6 reads it by unpickling it."""
    with tarfile.open(path, 'w') as archive:
        for name in ('sys_info', 'pickle', 'storages', 'tensors'):
            data = pickle.dumps(payload, protocol=2)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def a_checkpoint_in_a_zip(path, payload):
    torch.save(payload, path.with_suffix('.inner'))
    with zipfile.ZipFile(path, 'w') as archive:
        archive.write(path.with_suffix('.inner'), 'weights.pth')


def a_script(path, payload):
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(path))


def a_script_that_zipfile_cannot_list(path, payload):
    a_script(path, payload)
    content, at = bytearray(path.read_bytes()), -1
    while (at := content.find(b'PK\1\2', at + 1)) >= 0:
        content[at + 6] = 99  # the version that is needed to unpack it
    path.write_bytes(content)


def a_plain_pickle(path, payload):
    path.write_bytes(pickle.dumps(payload))


KINDS = [
    (a_tar, 'is a tar archive, not a checkpoint; unpack it first'),
    (a_checkpoint_in_a_zip, 'is a zip archive, not a checkpoint; unpack it first, it holds weights.pth'),
    (a_script, 'is a TorchScript program, not a checkpoint; get a file that holds weights alone'),
    (
        a_script_that_zipfile_cannot_list,
        'is a TorchScript program, not a checkpoint; get a file that holds weights alone',
    ),
    (
        a_plain_pickle,
        r'is no checkpoint of PyTorch, it begins with b.\\x80\\x04.*; if it is an archive, unpack it first|'
        r'is refused, .*\(posix.system\).*',
    ),
]


@pytest.mark.parametrize('make, line', KINDS, ids=[make.__name__ for make, _ in KINDS])
@pytest.mark.parametrize('name', ['file.pth', 'file.safetensors'])
def test_a_file_of_another_kind_is_not_opened_either(tmp_path, reader, make, line, name):
    path, mark = tmp_path / name, tmp_path / 'mark'
    make(path, Does(*leaves_a_mark(mark)))
    for read in (load_as_data, read_checkpoint, lambda path: CheckpointLoader.load_checkpoint(str(path))):
        with pytest.raises(BadCheckpoint, match=f'^{path} ({line})$'):
            read(path)
    assert not mark.exists()


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(IsADirectoryError):
        read_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        CheckpointLoader.load_checkpoint(str(tmp_path))


# ---------------------------------------------------------------- every path by which a user loads one


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    """The tiny config on a few pictures, and its checkpoint before any training."""
    folder = tmp_path_factory.mktemp('weights_only')
    make_tiny_lvis(folder / 'data', train=2, val=1, size=(96, 96), progress=False)
    cfg = shrunk(Config.fromfile(TINY), 'data/tiny_lvis/', folder / 'data')
    cfg = Config(cfg._cfg_dict, format_python_code=False)  # which takes seconds, and is done for every Runner
    cfg.work_dir, cfg.default_hooks = str(folder / 'work'), {}
    runner = Runner.from_cfg(cfg)
    cfg.dump(folder / 'config.py')
    runner.save_checkpoint(
        folder, 'good.pth', meta=dict(epoch=3, iter=7), save_optimizer=False, save_param_scheduler=False
    )
    return folder, runner


@pytest.fixture
def crafted(tiny, tmp_path):
    """A sound checkpoint with a payload among its logs, and the mark that it would leave."""
    content = load_as_data(tiny[0] / 'good.pth')
    content['message_hub']['runtime_info']['note'] = Does(*leaves_a_mark(tmp_path / 'mark'))
    (tmp_path / 'crafted').mkdir()
    torch.save(content, tmp_path / 'crafted/bad.pth')
    return tmp_path / 'crafted/bad.pth', tmp_path / 'mark'


def start(tiny, mode, path):
    """A new run from its config, up to the loading of its checkpoint."""
    folder, _ = tiny
    cfg = Config(Config.fromfile(folder / 'config.py')._cfg_dict, format_python_code=False)
    cfg.update(load_from=str(path), resume=mode == 'resume', experiment_name=f'{mode}{os.urandom(4).hex()}')
    getattr(Runner.from_cfg(cfg), 'test' if mode == 'test' else 'train')()


PATHS = {
    'train': lambda tiny, path: start(tiny, 'train', path),
    'resume': lambda tiny, path: start(tiny, 'resume', path),
    'test': lambda tiny, path: start(tiny, 'test', path),
    'load_checkpoint': lambda tiny, path: load_checkpoint(tiny[1].model, str(path)),
    'init_detector': lambda tiny, path: init_detector(str(tiny[0] / 'config.py'), str(path), device='cpu'),
    'DetInferencer': lambda tiny, path: DetInferencer(str(tiny[0] / 'config.py'), str(path), device='cpu'),
    'StrictDetInferencer': lambda tiny, path: StrictDetInferencer(tiny[0] / 'config.py', path, 'cpu'),
    'plot': lambda tiny, path: draw_checkpoint(path, tiny[0] / 'config.py', path.parent, 5.0),
    'convert': lambda tiny, path: convert_file(path, path.parent / 'out.pth', str(tiny[0] / 'config.py'), True),
}


@pytest.mark.parametrize('way', [*PATHS, 'backbone'])
def test_a_payload_does_not_run_on_any_path(tiny, crafted, way):
    path, mark = crafted
    with pytest.raises(
        BadCheckpoint, match=rf'^{path} is refused, because loading it would run code \((posix|nt).system\)'
    ):
        if way == 'backbone':
            backbone = tiny[1].model.backbone
            backbone.init_cfg, before = (
                dict(type='Pretrained', checkpoint=str(path), prefix='backbone.'),
                backbone.init_cfg,
            )
            try:
                backbone._is_init = False
                backbone.init_weights()
            finally:
                backbone.init_cfg = before
        else:
            PATHS[way](tiny, path)
    assert not mark.exists()


@pytest.mark.parametrize(
    'way', ['load_checkpoint', 'init_detector', 'DetInferencer', 'StrictDetInferencer', 'plot', 'convert']
)
def test_a_sound_checkpoint_is_loaded_on_the_same_paths(tiny, tmp_path, way):
    (tmp_path / 'good.pth').write_bytes((tiny[0] / 'good.pth').read_bytes())
    assert PATHS[way](tiny, tmp_path / 'good.pth')


def test_a_checkpoint_at_a_url(tiny, crafted, tmp_path, monkeypatch):
    """torch.hub asks for unsafe loading, in every version."""
    path, mark = crafted
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'hub'))
    (path.parent / 'good.pth').write_bytes((tiny[0] / 'good.pth').read_bytes())
    server = http.server.ThreadingHTTPServer(
        ('127.0.0.1', 0), functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(path.parent))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f'http://127.0.0.1:{server.server_address[1]}'
        with pytest.raises(BadCheckpoint, match=r'bad.pth is refused, .*\.system'):
            CheckpointLoader.load_checkpoint(f'{url}/bad.pth')
        assert CheckpointLoader.load_checkpoint(f'{url}/good.pth')['meta']['epoch'] == 3
    finally:
        server.shutdown()
        server.server_close()
    assert not mark.exists()


@pytest.mark.parametrize(
    'variables, line',
    [
        (['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'], 'is refused, because loading it would run code'),
        (
            ['TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'],
            'cannot be read while TORCH_FORCE_WEIGHTS_ONLY_LOAD is set; unset it, only data are read without it too$',
        ),
    ],
)
def test_torchs_variables_do_not_open_a_way(crafted, monkeypatch, variables, line):
    path, mark = crafted
    for variable in variables:
        monkeypatch.setenv(variable, '1')
    with pytest.raises(BadCheckpoint, match=line):
        CheckpointLoader.load_checkpoint(str(path))
    assert not mark.exists()


def test_a_variable_that_has_no_effect_is_noticed(tiny, monkeypatch, caplog):
    from mmengine.logging import MMLogger

    lines = []
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    monkeypatch.setattr(MMLogger.get_current_instance(), 'log', lambda level, line: lines.append(line))
    CheckpointLoader.load_checkpoint(str(tiny[0] / 'good.pth'))
    assert lines[-1] == (
        f'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set, but not for apa_mmdet: {tiny[0] / "good.pth"} was read as data alone'
    )


# ---------------------------------------------------------------- programs that checkpoints carry as text


class Small(BaseModel):
    def forward(self, inputs, mode='tensor'):
        return {}


def program(mark):
    return f'model = dict()\nopen({str(mark)!r}, "w").close()\n'


def test_the_program_text_of_a_checkpoint_is_not_run_by_resuming(tiny, tmp_path):
    """MMEngine runs ``meta.config`` for the number of GPUs in it."""
    content, mark = load_as_data(tiny[0] / 'good.pth'), tmp_path / 'mark'
    content['meta'].update(config=program(mark), cfg=program(mark))
    torch.save(dict(content, optimizer={}, param_schedulers=[]), tmp_path / 'file.pth')
    runner = tiny[1]
    runner.resume(str(tmp_path / 'file.pth'), resume_optimizer=False, resume_param_scheduler=False)
    assert (runner.epoch, runner.iter) == (3, 7) and not mark.exists()


def test_a_loader_of_ones_own_hands_on_no_program_either(tmp_path):
    meta = OrderedDict(config='program', epoch=1)
    meta.pop, content = codecs.encode, OrderedDict(meta=meta)
    content.get = codecs.encode
    CheckpointLoader.register_scheme('own://', lambda path, map_location=None: content, force=True)
    try:
        assert CheckpointLoader.load_checkpoint('own://')['meta'] == dict(epoch=1)
    finally:
        del CheckpointLoader._schemes['own://']


@pytest.mark.parametrize('kind', [Runner, FlexibleRunner])
def test_attributes_do_not_bring_a_program_to_a_runner(tmp_path, kind):
    """With a ``get`` of the file's own, ``meta.config`` would pass as left out, and run."""
    model, mark = torch.nn.Linear(1, 1), tmp_path / 'mark'
    runner = kind(model=Small(), work_dir=str(tmp_path / 'work'), experiment_name=kind.__name__ + os.urandom(4).hex())
    content = dict(
        meta=dict(epoch=1, iter=4, config=program(mark)),
        state_dict=model.state_dict(),
        message_hub=dict(log_scalars={}, runtime_info={}, resumed_keys={}),
    )
    torch.save(WithAttributes(OrderedDict(content), get=codecs.encode), tmp_path / 'file.pth')
    with pytest.raises(BadCheckpoint, match="may not set the attribute 'get' of its OrderedDict"):
        if kind is Runner:
            runner.resume(str(tmp_path / 'file.pth'))
        else:
            runner.strategy.load_checkpoint(str(tmp_path / 'file.pth'), map_location='cpu')
    assert not mark.exists()


def test_no_model_is_built_from_a_checkpoint_alone(tiny, tmp_path):
    """Its config is a program, and even plain data could name anything to be built."""
    content, mark = load_as_data(tiny[0] / 'good.pth'), tmp_path / 'mark'
    content['message_hub']['runtime_info']['cfg'] = content['meta']['cfg'] = program(mark)
    torch.save(content, tmp_path / 'file.pth')
    with pytest.raises(
        ValueError,
        match=f'^{tmp_path}/file.pth: name the config of its model as well; the one inside a '
        'checkpoint is a program, and is not run$',
    ):
        DetInferencer(weights=str(tmp_path / 'file.pth'), device='cpu')
    assert not mark.exists()


# ---------------------------------------------------------------- the tools


@pytest.mark.parametrize(
    'tool',
    [
        pytest.param('test.py', marks=pytest.mark.slow),
        'convert_official_weights.py',
        'plot_activations.py',
        'image_demo.py',
    ],
)
def test_a_tool_says_so_in_a_line(tiny, crafted, tool, tmp_path, monkeypatch, capsys):
    path, mark = crafted
    config = str(tiny[0] / 'config.py')
    arguments = {
        'test.py': [config, str(path), '--work-dir', str(tmp_path / 'work')],
        'convert_official_weights.py': [str(path), str(tmp_path / 'out.pth'), '--config', config],
        'plot_activations.py': [str(path), '--config', config],
        'image_demo.py': [str(tiny[0] / 'data'), config, str(path)],
    }[tool]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [tool, *arguments])
    with pytest.raises((SystemExit, BadCheckpoint)) as ended:
        runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
    said = str(ended.value)
    assert re.fullmatch(
        rf'(\w+: )?{path} is refused, because loading it would run code \(\w+.system\); get a file that '
        'holds weights alone',
        said,
    )
    assert not mark.exists() and not (tmp_path / 'out.pth').exists()

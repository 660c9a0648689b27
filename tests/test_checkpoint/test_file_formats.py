"""Files of other formats, and sound files that do not fit the machine."""

import io
import pickle
import tarfile
import zipfile

import pytest
import torch
from helpers.payloads import Does, leaves_a_mark
from mmengine.runner import CheckpointLoader

from apa_mmdet.checkpoint.io import BadCheckpoint, load_as_data, read_checkpoint
from apa_mmdet.checkpoint.scheme import data_only


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
def test_a_sound_file_that_does_not_fit_here_is_not_called_damaged(tmp_path, zipped):
    torch.save(dict(a=torch.ones(3)), tmp_path / 'file.pth', _use_new_zipfile_serialization=zipped)

    def full(storage, location):
        raise torch.cuda.OutOfMemoryError('CUDA out of memory')

    def faulty(storage, location):
        raise NameError('storge')

    def elsewhere(storage, location):
        raise NotImplementedError('no such device')

    for where, kind, line in (
        (full, torch.cuda.OutOfMemoryError, 'CUDA out of memory'),
        (faulty, NameError, 'storge'),
        (elsewhere, NotImplementedError, 'no such device'),
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
            load_as_data(tmp_path / path, where)
    assert load_as_data(tmp_path / 'gpu.pth', 'cpu')['a'].tolist() == [1, 1, 1]


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


FORMATS = {
    a_tar: 'tar',
    a_checkpoint_in_a_zip: 'zip',
    a_script: 'torchscript',
    a_script_that_zipfile_cannot_list: 'torchscript',
    a_plain_pickle: 'not-a-checkpoint',
}


@pytest.mark.parametrize('make', FORMATS, ids=[make.__name__ for make in FORMATS])
@pytest.mark.parametrize('name', ['file.pth', 'file.safetensors'])
def test_a_file_of_another_format_is_named_and_not_opened(tmp_path, make, name):
    path, mark = tmp_path / name, tmp_path / 'mark'
    make(path, Does(*leaves_a_mark(mark)))
    for read in (load_as_data, read_checkpoint, lambda path: CheckpointLoader.load_checkpoint(data_only(path))):
        with pytest.raises(BadCheckpoint, match=f'^{path} is ') as refused:
            read(path)
        assert refused.value.code == FORMATS[make]
    assert not mark.exists()


def test_a_tar_archive_is_to_be_unpacked(tmp_path):
    a_tar(tmp_path / 'file.pth', {})
    with pytest.raises(BadCheckpoint, match='file.pth is a tar archive, not a checkpoint; unpack it first$'):
        load_as_data(tmp_path / 'file.pth')


def test_a_stream_is_read_from_its_beginning(tmp_path):
    a_tar(tmp_path / 'file.tar', {})
    torch.save(dict(a=torch.ones(2)), tmp_path / 'file.pth')
    with open(tmp_path / 'file.tar', 'rb') as tar, open(tmp_path / 'file.pth', 'rb') as file:
        tar.seek(100)
        file.seek(100)
        with pytest.raises(BadCheckpoint, match='is a tar archive'):
            load_as_data(tar)
        assert load_as_data(file)['a'].tolist() == [1, 1]


def test_a_folder_is_not_a_checkpoint(tmp_path):
    with pytest.raises(IsADirectoryError):
        read_checkpoint(tmp_path)
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        CheckpointLoader.load_checkpoint(data_only(tmp_path))

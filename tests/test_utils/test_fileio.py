import errno
import os
import stat
import subprocess
import threading

import pytest
from helpers.disk import files_no_larger_than, names
from mmengine import fileio

from apa_mmdet.utils.fileio import ATOMIC_BACKEND, atomic_open, atomic_write, replace


def test_a_failed_write_leaves_the_old_file_and_reports_size_and_free_space(tmp_path):
    path = tmp_path / 'file'
    atomic_write(path, b'old')
    with files_no_larger_than(1 << 20), pytest.raises(OSError) as caught:
        atomic_write(path, bytes(3 << 20))
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(path)
    assert '3.0 MiB to write' in caught.value.strerror and 'MiB free' in caught.value.strerror
    assert path.read_bytes() == b'old' and names(tmp_path) == ['file']


@pytest.mark.parametrize('error', [KeyboardInterrupt(), ValueError('a fault'), FileNotFoundError(2, 'none', 'other')])
def test_a_block_that_fails_leaves_the_old_file_and_its_own_error(tmp_path, error):
    path = tmp_path / 'file'
    atomic_write(path, b'old')
    with pytest.raises(type(error)) as caught, atomic_open(path, 'w') as file:
        file.write('new')
        file.flush()
        raise error
    assert caught.value is error and path.read_bytes() == b'old' and names(tmp_path) == ['file']


def test_of_two_open_files_the_error_names_the_one_that_failed(tmp_path):
    with files_no_larger_than(1 << 20), pytest.raises(OSError) as caught, atomic_open(tmp_path / 'outer') as outer:
        outer.write(b'whole')
        atomic_write(tmp_path / 'inner', bytes(3 << 20))
    assert caught.value.filename == str(tmp_path / 'inner') and names(tmp_path) == []


def test_a_full_disk_leaves_the_old_file(tmp_path):
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1m', 'none', tmp_path], capture_output=True).returncode:
        pytest.skip('no right to mount a small file system')
    try:
        atomic_write(tmp_path / 'file', b'old')
        with pytest.raises(OSError, match=r'No space left on device, 2.0 MiB to write, 1.0 MiB free') as caught:
            atomic_write(tmp_path / 'file', bytes(2 << 20))
        assert caught.value.errno == errno.ENOSPC
        assert (tmp_path / 'file').read_bytes() == b'old' and names(tmp_path) == ['file']
    finally:
        subprocess.run(['umount', tmp_path], check=True)


def test_a_folder_that_cannot_be_flushed_is_no_error(tmp_path, monkeypatch):
    """As on some network file systems, of which there is none here."""
    fsync = os.fsync

    def of_files(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, 'Invalid argument')
        fsync(descriptor)

    monkeypatch.setattr(os, 'fsync', of_files)
    atomic_write(tmp_path / 'file', b'new')
    assert (tmp_path / 'file').read_bytes() == b'new'


def test_concurrent_writes_of_one_file_leave_one_of_the_contents(tmp_path):
    contents = [bytes([i]) * (1 << 20) for i in range(8)]
    threads = [threading.Thread(target=atomic_write, args=(tmp_path / 'file', content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / 'file').read_bytes() in contents and names(tmp_path) == ['file']


def test_a_folder_replaces_a_folder(tmp_path):
    for name in 'old', 'new':
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    replace(tmp_path / 'new', tmp_path / 'old')
    assert [path.name for path in tmp_path.iterdir()] == ['old'] and names(tmp_path / 'old') == ['new']


def test_mmengine_writes_through_the_backend_where_it_is_selected(tmp_path):
    path, args = str(tmp_path / 'folder/file'), dict(backend=ATOMIC_BACKEND)
    fileio.put(b'old', path, backend_args=args)
    fileio.put_text('new', path, backend_args=args)
    with files_no_larger_than(1 << 20), pytest.raises(OSError, match='2.0 MiB to write'):
        fileio.put(bytes(2 << 20), path, backend_args=args)
    assert fileio.get(path) == b'new' and names(tmp_path / 'folder') == ['file']
    assert type(fileio.get_file_backend(path)) is fileio.LocalBackend


def test_permissions_and_links_of_the_old_file_stay(tmp_path):
    target, link = tmp_path / 'target', tmp_path / 'link'
    target.write_bytes(b'old')
    target.chmod(0o640)
    link.symlink_to(target)
    atomic_write(link, b'new')
    assert link.is_symlink() and target.read_bytes() == b'new' and stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_pipe_is_written_to_and_stays(tmp_path):
    path, read = tmp_path / 'pipe', []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()))
    reader.start()
    atomic_write(path, b'new')
    reader.join()
    assert read == [b'new'] and stat.S_ISFIFO(path.stat().st_mode)


def test_a_name_may_be_as_long_as_the_file_system_takes(tmp_path):
    atomic_write(tmp_path / ('x' * 255), b'')
    atomic_write(tmp_path / ('ä' * 127), b'')


def test_an_error_without_a_number_keeps_its_text(tmp_path):
    with pytest.raises(OSError, match='no more'), atomic_open(tmp_path / 'file'):
        raise OSError('no more')

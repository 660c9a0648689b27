"""Atomic writes: a file is replaced as a whole or not at all."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mmengine.fileio import LocalBackend, register_backend

UNFINISHED = '.unfinished'  # ends the name of a file that is being written
ATOMIC_BACKEND = 'apa_mmdet.atomic'  # name of AtomicLocalBackend in ``backend_args``


@contextmanager
def atomic_open(path: str | Path, mode: str = 'wb', size: int | None = None, **options) -> Iterator[IO]:
    """Opens a file to be written: if the block fails, whatever the reason, the target is what it was before.

    The file is written under a temporary name beside its target, flushed to disk and renamed. A reader finds the old
    content or the new, never a part of it, also where several processes write the same file. The new file has the
    permissions of the old one; a link stays, and what it points to is replaced. What is no regular file, such as a
    pipe, is opened as it is.

    Args:
        path: the file; its folder is created if it does not exist.
        mode, options: of :func:`open`, to write a whole file.
        size: bytes that will be written, where that is known, for the message of an error.

    Raises:
        OSError: if the file cannot be written, with the free space. In the block, errors that name no file are taken
            for those of this one.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / 'results.txt'
        >>> with atomic_open(path, 'w', encoding='utf-8') as file:
        ...     _ = file.write('AP 0.25')
        >>> path.read_text()
        'AP 0.25'
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        with path.open(mode, **options) as file:
            yield file
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'{path.name[:40]}.{secrets.token_hex(4)}{UNFINISHED}')  # of at most 255 bytes
    foreign: OSError | None = None  # of the block, about another file
    try:
        with unfinished.open(mode, **options) as file:
            try:
                yield file
            except OSError as error:
                foreign = error if error.filename else None
                raise
        if path.exists():
            shutil.copymode(path, unfinished)
        replace(unfinished, path)
    except BaseException as error:
        remove(unfinished)
        if not isinstance(error, OSError) or error is foreign:
            raise
        to_write = '' if size is None else f'{size / 2**20:.1f} MiB to write, '
        free = shutil.disk_usage(path.parent).free / 2**20
        raise OSError(error.errno, f'{error.strerror or error}, {to_write}{free:.1f} MiB free', str(path)) from None


def atomic_write(path: str | Path, content: bytes) -> None:
    """Writes a file by :func:`atomic_open`.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / 'last_checkpoint'
        >>> atomic_write(path, b'epoch_1.pth')
        >>> path.read_bytes()
        b'epoch_1.pth'
    """
    with atomic_open(path, size=len(content)) as file:
        file.write(content)


def refuse_existing(path: str | Path, force: bool = False, sources: Iterable[str | Path] = ()) -> None:
    """Raises FileExistsError for a file that exists, unless ``force``, and for one of the ``sources`` in any case."""
    path = Path(path)
    if not path.exists():
        return
    if any(Path(source).exists() and path.samefile(source) for source in sources):
        raise FileExistsError(f'{path} is what is read; name another file for the result')
    if not force:
        raise FileExistsError(f'{path} exists already; name another file, or overwrite it with --force')


def replace(unfinished: Path, path: Path) -> None:
    """Flushes a written file, or the files of a folder, to disk and gives it its final name."""
    for file in [unfinished, *unfinished.rglob('*')]:
        _flush(file)
    if unfinished.is_dir():
        remove(path)
    os.replace(unfinished, path)
    _flush(path.parent)  # or a power failure could undo the rename


def remove(path: Path) -> None:
    """Removes a file or a folder with its content, if there is one."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:  # some file systems cannot flush a folder
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise


@register_backend(ATOMIC_BACKEND, force=True)  # of our own, if this module is imported again
class AtomicLocalBackend(LocalBackend):
    """MMEngine's local backend, writing by :func:`atomic_write`; ``backend_args=dict(backend='apa_mmdet.atomic')``."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """See :func:`atomic_write`."""
        atomic_write(filepath, obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """See :func:`atomic_write`."""
        atomic_write(filepath, obj.encode(encoding))

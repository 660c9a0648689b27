"""Atomic writes: a file is replaced as a whole or not at all."""

import errno
import os
import secrets
import shutil
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

UNFINISHED = '.unfinished'  # ends the name of a file that is being written
ATOMIC_BACKEND = 'apa_mmdet.atomic'  # name of AtomicLocalBackend in ``backend_args``


def atomic_write(path: str | Path, content: bytes) -> None:
    """Writes a file under a temporary name beside its target, flushes it to disk and renames it.

    A reader finds the old content or the new, never a part of it, also where several processes write the same file.

    Raises:
        OSError: if the file cannot be written, with the free space; the target is what it was before.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / 'last_checkpoint'
        >>> atomic_write(path, b'epoch_1.pth')
        >>> path.read_bytes()
        b'epoch_1.pth'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'{path.name}.{secrets.token_hex(4)}{UNFINISHED}')
    try:
        with unfinished.open('wb') as file:
            file.write(content)
        replace(unfinished, path)
    except OSError as error:
        remove(unfinished)
        free = shutil.disk_usage(path.parent).free
        raise OSError(
            error.errno,
            f'{error.strerror}, {len(content) / 2**20:.1f} MiB to write, {free / 2**20:.1f} MiB free',
            str(path),
        ) from None


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

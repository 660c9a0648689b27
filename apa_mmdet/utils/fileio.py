"""Files that are replaced as a whole or not at all."""

import errno
import os
import shutil
from pathlib import Path

from mmengine.fileio import LocalBackend

UNFINISHED = '.unfinished'


class AtomicLocalBackend(LocalBackend):
    """Local files that are replaced in one move: a reader finds the old content or the new, never a part of it.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + '/last_checkpoint'
        >>> AtomicLocalBackend().put(b'epoch_1.pth', path)
        >>> AtomicLocalBackend().get(path)
        b'epoch_1.pth'
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write beside the target, bring it to the disk, then rename.

        Raises:
            OSError: if the disk is full or the file cannot be written; the target is what it was before.
        """
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + UNFINISHED)
        try:
            with unfinished.open('wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            free = shutil.disk_usage(path.parent).free
            raise OSError(
                error.errno,
                f'{error.strerror}, {len(obj) / 2**20:.1f} MiB to write, {free / 2**20:.1f} MiB free',
                str(path),
            ) from None
        _sync_folder(path.parent)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """As :meth:`put`."""
        self.put(obj.encode(encoding), filepath)


def _sync_folder(folder: Path) -> None:
    """Bring a rename to the disk, or a power cut could undo it; some file systems cannot do that for a folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise

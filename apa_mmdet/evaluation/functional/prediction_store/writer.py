"""Writing the predictions of one process."""

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .format import HEADER, MAGIC, MARKER, RECORD, Prediction, PredictionError, encode_prediction, path_of

try:
    import fcntl
except ImportError:  # Windows: files are not locked there; gather_files finds what another test did to them
    fcntl = None


class PredictionWriter:
    """Writes the predictions of this process into ``folder``, image by image, and locks its file until it is closed.

    Rank 0 removes the files that an earlier test with more processes left in the folder.

    Args:
        folder: created if it does not exist.
        rank: of this process.
        world_size: number of processes.
        token: 16 bytes shared by all ranks of a test and by no other test; default: random.

    Raises:
        PredictionError: ``file-in-use`` if another writer has the file open, ``duplicate-image`` if an image is written
            twice, ``bad-image-id`` if its id is not an integer of 64 bits.
        OSError: naming the file, if it cannot be written.
    """

    def __init__(self, folder: Path, rank: int = 0, world_size: int = 1, token: bytes | None = None) -> None:
        self.folder, self.path, self._written = folder, path_of(folder, rank), set()
        self.header = HEADER.pack(MAGIC, rank, world_size, token or os.urandom(16))
        folder.mkdir(parents=True, exist_ok=True)
        self.file = self.path.open('ab')
        with self._naming_file():
            self._lock()
            if self.file.tell():
                self.file.truncate(0)
            self.file.write(self.header)
            self.file.flush()
        if rank == 0:
            for stale in {*folder.glob('rank*.p*')} - {path_of(folder, i) for i in range(world_size)}:
                stale.unlink()

    def _lock(self) -> None:
        try:
            if fcntl:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.file.close()
            raise PredictionError(
                'file-in-use',
                f'{self.path} is in use by another test or another metric: give each metric its own outfile_prefix',
            ) from error
        except OSError:
            pass  # a file system without locks

    def write(self, prediction: Prediction) -> None:
        if prediction.image_id in self._written:
            raise PredictionError(
                'duplicate-image',
                f'image {prediction.image_id} was tested twice, as after an interrupted test; its predictions are in '
                f'{self.path}: copy them if you need them, then start the test again',
            )
        self._written.add(prediction.image_id)
        try:
            payload = encode_prediction(prediction)
        except struct.error as error:
            raise PredictionError(
                'bad-image-id', f'image {prediction.image_id!r}: its id is not an integer of 64 bits ({error})'
            ) from error
        with self._naming_file():
            self.file.write(RECORD.pack(MARKER, len(payload), zlib.crc32(payload)))
            self.file.write(payload)

    def flush(self) -> None:
        """Bring the file to the disk, where other machines see it."""
        with self._naming_file():
            self.file.flush()
            os.fsync(self.file.fileno())

    def close(self) -> None:
        with self._naming_file(), self.file:
            self.file.flush()
            if fcntl:
                with suppress(OSError):
                    fcntl.flock(self.file, fcntl.LOCK_UN)  # for worker processes too, which share the open file

    @contextmanager
    def _naming_file(self) -> Iterator[None]:
        """Name the file in an error, of a full disk for example."""
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, f'{error.strerror}, while predictions were written', str(self.path)) from error

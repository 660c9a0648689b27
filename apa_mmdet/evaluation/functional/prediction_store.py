"""Predictions of a test on disk: one file per process, one record per image, nothing that could run code.

A file is its header (:data:`HEADER`: magic, rank, number of ranks, token of the test) and records. A record is
:data:`RECORD` (marker, bytes of the payload, their CRC-32) and the payload: :data:`IMAGE` (id, n, height and width of
the masks, whether there are masks), n :data:`DETECTION`, and the n masks as compressed RLE. All is little-endian.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.logging import MMLogger

from apa_mmdet.utils.errors import CodedError

try:
    import fcntl
except ImportError:  # Windows: files are not locked there; gather_files finds what another test did to them
    fcntl = None

HEADER, MAGIC = struct.Struct('<8sII16s'), b'APAPRED2'
RECORD, MARKER = struct.Struct('<4sQI'), b'IMG:'
IMAGE = struct.Struct('<qIII?')
DETECTION = np.dtype(
    [('box', '<f4', 4), ('score', '<f4'), ('mask_score', '<f4'), ('label', '<i4'), ('length', '<u4')]  # of the mask
)


class PredictionError(CodedError):
    """Predictions that cannot be written, read or evaluated; docs/fault_tolerance.md lists the codes.

    Attributes:
        path: the file or folder that could not be read, with which the message begins; None where another is at fault.
    """

    path: Path | None = None

    @classmethod
    def of(cls, code: str, path: Path, text: str) -> 'PredictionError':
        """The error of a file or folder; ``text`` follows its path in the message."""
        error = cls(code, f'{path}{text}')
        error.path = path
        return error


class Masks(NamedTuple):
    """n masks as compressed RLE: their ``counts`` or, when read from a file, the ``offsets`` and ``lengths`` there."""

    size: tuple[int, int]
    counts: Sequence[bytes] = ()
    offsets: np.ndarray | None = None
    lengths: np.ndarray | None = None


class Prediction(NamedTuple):
    """Detections of an image: boxes (n, 4) as x1 y1 x2 y2, scores, labels, and optional masks.

    ``mask_scores`` rank the masks; None: as ``scores``, which they are when read from a file.
    """

    image_id: int
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    mask_scores: np.ndarray | None = None
    masks: Masks | None = None
    file: int = 0  # index of the file it was read from


def as_xywh(boxes: np.ndarray) -> list[list[float]]:
    """Boxes (n, 4) from x1 y1 x2 y2 to x y width height, with differences in float64, as MMDetection writes them."""
    corners = boxes.astype(np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()


def path_of(folder: Path, rank: int) -> Path:
    return folder / f'rank{rank}.predictions'


@contextmanager
def name_file(path: Path, doing: str) -> Iterator[None]:
    """Name the file in an error, of a full disk for example."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f'{error.strerror}, while {doing}', str(path)) from error


# Writing


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
        self._lock()
        with name_file(self.path, 'predictions were written'):
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
            payload = _encode(prediction)
        except struct.error as error:
            raise PredictionError(
                'bad-image-id', f'image {prediction.image_id!r}: its id is not an integer of 64 bits ({error})'
            ) from error
        with name_file(self.path, 'predictions were written'):
            self.file.write(RECORD.pack(MARKER, len(payload), zlib.crc32(payload)))
            self.file.write(payload)

    def flush(self) -> None:
        """Bring the file to the disk, where other machines see it."""
        with name_file(self.path, 'predictions were written'):
            self.file.flush()
            os.fsync(self.file.fileno())

    def close(self) -> None:
        with name_file(self.path, 'predictions were written'), self.file:
            self.file.flush()
            if fcntl:
                with suppress(OSError):
                    fcntl.flock(self.file, fcntl.LOCK_UN)  # for worker processes too, which share the open file


def _encode(prediction: Prediction) -> bytes:
    """The payload of a record; raises ``struct.error`` for an image id that is not an integer of 64 bits."""
    image_id, boxes, scores, labels, mask_scores, masks, _ = prediction
    rows = np.zeros(len(scores), DETECTION)
    rows['box'], rows['score'], rows['label'] = boxes, scores, labels
    rows['mask_score'] = scores if mask_scores is None else mask_scores
    if masks:
        rows['length'] = [len(text) for text in masks.counts]
    size, counts = masks[:2] if masks else ((0, 0), ())
    return b''.join([IMAGE.pack(image_id, len(rows), *size, masks is not None), rows.tobytes(), *counts])


# Reading


class PredictionFiles:
    """The predictions in the files of all ranks, in the order of the data set; can be iterated several times.

    Args:
        paths: the files, by rank.
        size: images in the data set; further ones, with which samplers fill up the ranks, are skipped. None: no limit.

    Raises:
        PredictionError: while reading, ``damaged-file``, or ``missing-images`` if there are fewer than ``size`` images.
    """

    def __init__(self, paths: Sequence[Path], size: int | None = None) -> None:
        self.paths, self.size = list(paths), size

    def __iter__(self) -> Iterator[Prediction]:
        """Each image once: DefaultSampler repeats the first ones to fill the last batch."""
        seen, count = set(), 0
        rounds = zip_longest(*(read_predictions(path, i) for i, path in enumerate(self.paths)))
        for prediction in islice((p for of_ranks in rounds for p in of_ranks if p), self.size):
            count += 1
            if prediction.image_id not in seen:
                seen.add(prediction.image_id)
                yield prediction
        if self.size is not None and count < self.size:
            found = f' has predictions of {count} of the {self.size} tested images'
            raise PredictionError.of('missing-images', self.paths[0].parent, found)

    @contextmanager
    def open_masks(self) -> Iterator[Callable[[int, int, int], bytes]]:
        """A function that reads a mask: from the index of its file, its offset and its length there."""

        def read_mask(file: int, offset: int, length: int) -> bytes:
            files[file].seek(offset)
            return files[file].read(length)

        with ExitStack() as stack:
            files = [stack.enter_context(path.open('rb')) for path in self.paths]
            yield read_mask


def find_predictions(folder: Path) -> PredictionFiles:
    """The predictions that a test left in ``folder``, finished or not.

    Raises:
        FileNotFoundError: if the file of a rank is missing.
        PredictionError: ``not-predictions``, or ``other-test`` if a file belongs to another test than the first.
    """
    first, paths = path_of(folder, 0), []
    if not first.is_file():
        raise FileNotFoundError(f'{folder} has no predictions: {first.name} is missing')
    _, world_size, token = _read_header(first)
    for rank in range(world_size):
        path, source = path_of(folder, rank), f'the folder {folder.name} on the machine of process {rank}'
        if not path.is_file():
            raise FileNotFoundError(
                f'{path} is missing; {world_size} processes wrote these predictions: copy it from {source}'
            )
        if _read_header(path) != (rank, world_size, token):
            found = f' belongs to another test than {first}: copy that of the same test from {source}'
            raise PredictionError.of('other-test', path, found)
        paths.append(path)
    return PredictionFiles(paths)


def _read_header(path: Path) -> tuple[int, int, bytes]:
    """Rank, number of ranks, token."""
    with path.open('rb') as file:
        header = file.read(HEADER.size)
    if len(header) < HEADER.size or not header.startswith(MAGIC):
        raise PredictionError.of('not-predictions', path, ' is not a file of predictions, or its beginning was cut off')
    return HEADER.unpack(header)[1:]


def read_predictions(path: Path, index: int = 0) -> Iterator[Prediction]:
    """The predictions of one process; masks stay in the file and are given by their offsets.

    If the file ends within a record, as after a crash, the complete records are used, and the log reports it.

    Args:
        path: the file.
        index: its number among several, for ``Prediction.file``.

    Raises:
        PredictionError: ``not-predictions`` or ``damaged-file``.
    """
    _read_header(path)
    size, start, number = path.stat().st_size, HEADER.size, 0
    with path.open('rb') as file:
        file.seek(start)
        while start < size:
            head = file.read(RECORD.size)
            marker, length, checksum = RECORD.unpack(head) if len(head) == RECORD.size else (MARKER, size, 0)
            try:
                if marker != MARKER:
                    raise ValueError('does not start with the marker of a record')
                if file.tell() + length > size:
                    MMLogger.get_current_instance().warning(
                        f'{path} ends within a record, as after a crash: the {number} complete records are used'
                    )
                    return
                payload = file.read(length)
                if zlib.crc32(payload) != checksum:
                    raise ValueError('has a wrong checksum')
                prediction = _decode(payload, file.tell(), index)
            except (struct.error, ValueError) as error:
                found = f' is damaged: record {number + 1}, at byte {start}, {error}'
                raise PredictionError.of('damaged-file', path, found) from error
            yield prediction
            start, number = file.tell(), number + 1


def _decode(payload: bytes, end: int, file: int) -> Prediction:
    """The prediction in a payload that ends at byte ``end`` of file number ``file``.

    Raises:
        struct.error, ValueError: if the payload is too short or too long.
    """
    image_id, n, height, width, with_masks = IMAGE.unpack_from(payload)
    rows = np.frombuffer(payload, DETECTION, n, IMAGE.size).copy()  # a view would keep the payload
    lengths = rows['length'].astype(np.int64)
    expected = IMAGE.size + rows.nbytes + int(lengths.sum())
    if expected != len(payload):
        raise ValueError(f'has {len(payload)} bytes instead of {expected}')
    masks = Masks((height, width), (), end - lengths[::-1].cumsum()[::-1], lengths) if with_masks else None
    return Prediction(image_id, rows['box'], rows['score'], rows['label'], rows['mask_score'], masks, file)

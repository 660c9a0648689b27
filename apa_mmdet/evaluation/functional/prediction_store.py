"""Predictions of a test on disk: a file for each process, a record for each image, nothing that could run code.

A file is its header (:data:`HEADER`: magic, rank, number of ranks, the test's token) and records. A record is
:data:`RECORD` (marker, bytes of the payload, their CRC-32) and the payload: :data:`IMAGE` (id, n, height and width of
the masks, flags), boxes (n x 4 float32, x1 y1 x2 y2), scores (n float32), labels (n int32), where there are some mask
scores (n float32), and for masks the lengths (n uint32) and bytes of their compressed RLE. All is little-endian.
"""

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice, zip_longest
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
import torch.distributed
from mmengine import dist
from mmengine.logging import MMLogger

try:
    import fcntl
except ImportError:  # Windows: files are not locked there, and what another test did to them is found in the end
    fcntl = None

HEADER, MAGIC = struct.Struct('<8sII16s'), b'APAPRED1'
RECORD, MARKER = struct.Struct('<4sQI'), b'IMG:'
IMAGE = struct.Struct('<qIIIB')
WITH_MASK_SCORES, WITH_MASKS = 1, 2
PIECE = 16 * 2**20  # bytes that are sent to another process at once


class Masks(NamedTuple):
    """``counts``: compressed RLE of n masks; read from a file, where they lie in it is known instead."""

    size: tuple[int, int]
    counts: Sequence[bytes] = ()
    offsets: np.ndarray | None = None
    lengths: np.ndarray | None = None


class Prediction(NamedTuple):
    """What was found in an image: boxes (n, 4) as x1 y1 x2 y2, scores, labels, and masks with scores of their own."""

    image_id: int
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    mask_scores: np.ndarray | None = None
    masks: Masks | None = None
    file: int = 0  # which of several files it was read from


def path_of(folder: Path, rank: int) -> Path:
    return folder / f'rank{rank}.predictions'


class PredictionWriter:
    """Writes the predictions of this process into ``folder``, image by image; nobody else can until it is closed.

    What an earlier test with more processes left there is removed by rank 0.

    Args:
        folder: made if it is not there.
        rank: of this process.
        world_size: number of processes.
        token: 16 bytes that all ranks of a test have in common, and no other test; default: random.

    Raises:
        ValueError: if the file is open for another writer, an image comes a second time, or its id is no whole number.
        OSError: naming the file, if it cannot be written.
    """

    def __init__(self, folder: Path, rank: int = 0, world_size: int = 1, token: bytes | None = None) -> None:
        self.folder, self.path, self._seen = folder, path_of(folder, rank), set()
        self.header = HEADER.pack(MAGIC, rank, world_size, token or os.urandom(16))
        folder.mkdir(parents=True, exist_ok=True)
        self.file = self.path.open('ab')
        with self._named():
            self._lock()
            if self.file.tell():
                self.file.truncate(0)
            self.file.write(self.header)
            self.file.flush()
        for old in folder.glob('rank*.p*') if rank == 0 else ():
            if old not in {path_of(folder, i) for i in range(world_size)}:
                old.unlink()

    def _lock(self) -> None:
        try:
            if fcntl:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.file.close()
            raise ValueError(
                f'{self.path} is being written by another test, or by another metric of this one: give '
                'each an outfile_prefix of its own'
            ) from error
        except OSError:
            pass  # a file system without locks

    def write(self, prediction: Prediction) -> None:
        if prediction.image_id in self._seen:
            raise ValueError(
                f'image {prediction.image_id} comes a second time in one test, as after one that was '
                f'interrupted; its predictions are in {self.path}: copy them to keep them, then test anew'
            )
        self._seen.add(prediction.image_id)
        try:
            payload = b''.join(_payload(prediction))
        except struct.error as error:
            raise ValueError(
                f'the prediction of image {prediction.image_id!r} cannot be written, as where the id of an image is no '
                f'whole number of 64 bits: {error}'
            ) from error
        with self._named():
            self.file.write(RECORD.pack(MARKER, len(payload), zlib.crc32(payload)))
            self.file.write(payload)

    def flush(self) -> None:
        """So that other machines see it, too."""
        with self._named():
            self.file.flush()
            os.fsync(self.file.fileno())

    def close(self) -> None:
        with self._named(), self.file:
            self.file.flush()
            if fcntl:
                with suppress(OSError):
                    fcntl.flock(self.file, fcntl.LOCK_UN)  # for worker processes too, which share the open file

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Say of which file an error is, a full disk for one."""
        try:
            yield
        except OSError as error:
            raise _about(self.path, 'predictions were written', error) from error


def _about(path: Path, what: str, error: OSError) -> OSError:
    return OSError(error.errno, f'{error.strerror}, while {what}', str(path))


def _payload(prediction: Prediction) -> Iterator[bytes]:
    image_id, boxes, scores, labels, mask_scores, masks, _ = prediction
    flags = WITH_MASK_SCORES * (mask_scores is not None) + WITH_MASKS * (masks is not None)
    yield IMAGE.pack(image_id, len(scores), *(masks.size if masks else (0, 0)), flags)
    for values, kind in ((boxes, '<f4'), (scores, '<f4'), (labels, '<i4'), (mask_scores, '<f4')):
        if values is not None:
            yield np.asarray(values, kind).tobytes()
    if masks:
        yield np.array([len(counts) for counts in masks.counts], '<u4').tobytes()
        yield from masks.counts


class PredictionFiles:
    """The predictions in the files of all ranks, in the order of the data set; can be gone through several times.

    Args:
        paths: the files, by rank.
        size: images in the data set; what samplers add so that every rank has as many is left out. None: all there are.

    Raises:
        ValueError: while reading, if a file is damaged, or if fewer than ``size`` images were written.
    """

    def __init__(self, paths: Sequence[Path], size: int | None = None) -> None:
        self.paths, self.size = list(paths), size

    def __iter__(self) -> Iterator[Prediction]:
        """Each image once: DefaultSampler repeats the first ones to fill the last batch."""
        seen, count = set(), 0
        rounds = zip_longest(*(read_predictions(path, i) for i, path in enumerate(self.paths)))
        for prediction in islice((p for found in rounds for p in found if p), self.size):
            count += 1
            if prediction.image_id not in seen:
                seen.add(prediction.image_id)
                yield prediction
        if self.size is not None and count < self.size:
            raise ValueError(
                f'{self.paths[0].parent} holds predictions for {count} of the {self.size} images to be tested'
            )

    @contextmanager
    def open(self) -> Iterator[list[BinaryIO]]:
        """The files in which the masks lie."""
        with ExitStack() as stack:
            yield [stack.enter_context(path.open('rb')) for path in self.paths]


def files_in(folder: Path) -> PredictionFiles:
    """What a test left in ``folder``, finished or not.

    Raises:
        FileNotFoundError: if the file of a rank is missing.
        ValueError: if a file is not one of these, or is of another test than the first.
    """
    first = path_of(folder, 0)
    if not first.is_file():
        raise FileNotFoundError(f'{folder} holds no predictions: there is no {first.name} in it')
    with first.open('rb') as file:
        _, world_size, token = _read_header(file, first)
    paths = [path_of(folder, rank) for rank in range(world_size)]
    for rank, path in enumerate(paths):
        if not path.is_file():
            raise FileNotFoundError(
                f'{folder}: {path.name} is missing; {world_size} processes wrote these '
                f'predictions: copy it from the folder {folder.name} '
                f'on the machine of process {rank}'
            )
        with path.open('rb') as file:
            if _read_header(file, path) != (rank, world_size, token):
                raise ValueError(
                    f'{path} belongs to another test than {first}: copy that of the same test from the '
                    f'folder {folder.name} on the machine of process {rank}'
                )
    return PredictionFiles(paths)


def read_predictions(path: Path, index: int = 0) -> Iterator[Prediction]:
    """The predictions of one process; masks stay in the file, and where they lie there is given.

    Of a file that ends within a record, as after a crash, the whole ones before it are given, and the log says so.

    Raises:
        ValueError: if it is not such a file or is damaged.
    """
    size, number = path.stat().st_size, 0
    with path.open('rb') as file:
        _read_header(file, path)
        while (start := file.tell()) < size:
            head = file.read(RECORD.size)
            if len(head) == RECORD.size:
                marker, length, checksum = RECORD.unpack(head)
                if marker != MARKER:
                    raise ValueError(f'{path} is damaged: record {number + 1}, at byte {start}, does not begin as one')
            if len(head) < RECORD.size or file.tell() + length > size:
                MMLogger.get_current_instance().warning(
                    f'{path} ends within a record, as after a crash: the {number} whole ones before it are used'
                )
                return
            payload = file.read(length)
            if zlib.crc32(payload) != checksum:
                raise ValueError(f'{path} is damaged: the checksum of record {number + 1}, at byte {start}, is wrong')
            try:
                prediction = _prediction(payload, file.tell(), index)
            except (struct.error, ValueError) as error:
                raise ValueError(f'{path} is damaged: record {number + 1}, at byte {start}: {error}') from error
            yield prediction
            number += 1


def _read_header(file: BinaryIO, path: Path) -> tuple[int, int, bytes]:
    """Rank, number of ranks, token."""
    head = file.read(HEADER.size)
    if len(head) < HEADER.size or not head.startswith(MAGIC):
        raise ValueError(f'{path} is no file of predictions, or was cut off at its beginning')
    return HEADER.unpack(head)[1:]


def _prediction(payload: bytes, end: int, index: int) -> Prediction:
    """``end``: where the payload ends in its file."""
    image_id, n, height, width, flags = IMAGE.unpack_from(payload)
    at = IMAGE.size

    def read(kind: str, columns: int = 1) -> np.ndarray:
        nonlocal at
        values = np.frombuffer(payload, kind, n * columns, at).copy()  # a view would keep the payload
        at += values.nbytes
        return values

    boxes, scores, labels = read('<f4', 4).reshape(n, 4), read('<f4'), read('<i4')
    mask_scores = read('<f4') if flags & WITH_MASK_SCORES else None
    masks = None
    if flags & WITH_MASKS:
        lengths = read('<u4').astype(np.int64)
        masks = Masks((height, width), offsets=end - len(payload) + at + lengths.cumsum() - lengths, lengths=lengths)
        at += int(lengths.sum())
    if at != len(payload):
        raise ValueError(f'it has {len(payload)} bytes instead of {at}')
    return Prediction(image_id, boxes, scores, labels, mask_scores, masks, index)


# Several processes


def gather_files(writer: PredictionWriter) -> list[Path]:
    """Where rank 0 finds the files of all ranks, whose writers are still open; nothing for the others. All call it.

    A file that rank 0 does not see in its own folder is sent there through torch.distributed, piece by piece.

    Raises:
        OSError: if a file cannot be written: on the rank that writes it, and of one's own on every rank.
        ValueError: on every rank, if another test has written to a file.
    """
    rank, world_size = dist.get_dist_info()
    facts = dist.all_gather_object(_finish(writer))
    for _, error in facts:
        if error:
            raise error
    paths = [path_of(writer.folder, i) for i in range(world_size)]
    wanted = [[i for i, (fact, _) in enumerate(facts) if not _is_there(paths[i], *fact)]]
    dist.broadcast_object_list(wanted)  # what rank 0 lacks
    failures = []
    for sender in wanted[0]:
        if rank == 0:
            failures += _receive(paths[sender], facts[sender][0][1], sender)
        elif rank == sender:
            _send(writer.path)
    if failures:
        raise failures[0]
    return paths if rank == 0 else []


def _finish(writer: PredictionWriter) -> tuple[tuple[bytes, int], Exception | None]:
    """Header and size of the file, and what is wrong with it."""
    try:
        writer.flush()
        fact = writer.header, writer.path.stat().st_size
    except OSError as error:
        return (b'', 0), error
    if not _is_there(writer.path, *fact):
        return fact, ValueError(f'another test has written to {writer.path}')
    return fact, None


def _is_there(path: Path, header: bytes, size: int) -> bool:
    """Whether it is what its writer says."""
    try:
        with path.open('rb') as file:
            return os.fstat(file.fileno()).st_size == size and file.read(HEADER.size) == header
    except OSError:
        return False


def _send(path: Path) -> None:
    with path.open('rb') as file:
        while piece := file.read(PIECE):
            tensor = torch.frombuffer(bytearray(piece), dtype=torch.uint8)
            torch.distributed.send(tensor.to(dist.get_comm_device()), 0)


def _receive(path: Path, size: int, sender: int) -> list[OSError]:
    """Whole, or not at all; what cannot be written is received all the same, since its sender waits for that."""
    part, pieces = path.with_suffix('.part'), _pieces(size, sender)
    try:
        with part.open('wb') as file:
            for piece in pieces:
                file.write(piece)
        part.replace(path)
        return []
    except OSError as error:
        for _ in pieces:
            pass
        part.unlink(missing_ok=True)
        return [_about(path, f'those of process {sender} were received', error)]


def _pieces(size: int, sender: int) -> Iterator[bytes]:
    for start in range(0, size, PIECE):
        piece = torch.empty(min(PIECE, size - start), dtype=torch.uint8, device=dist.get_comm_device())
        torch.distributed.recv(piece, sender)
        yield piece.cpu().numpy().tobytes()

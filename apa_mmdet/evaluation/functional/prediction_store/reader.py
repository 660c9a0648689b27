"""Reading predictions from the files of one or several processes."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice, zip_longest
from pathlib import Path
from typing import BinaryIO

from mmengine.logging import MMLogger

from .format import MARKER, RECORD, Prediction, PredictionError, decode_prediction, path_of, read_header


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
            raise PredictionError(
                'missing-images', f'{self.paths[0].parent} has predictions of {count} of the {self.size} tested images'
            )

    @contextmanager
    def open(self) -> Iterator[list[BinaryIO]]:
        """Open the files, to read masks at their offsets."""
        with ExitStack() as stack:
            yield [stack.enter_context(path.open('rb')) for path in self.paths]


def find_predictions(folder: Path) -> PredictionFiles:
    """The predictions that a test left in ``folder``, finished or not.

    Raises:
        FileNotFoundError: if the file of a rank is missing.
        PredictionError: ``not-predictions``, or ``other-test`` if a file belongs to another test than the first.
    """
    first = path_of(folder, 0)
    if not first.is_file():
        raise FileNotFoundError(f'{folder} has no predictions: {first.name} is missing')
    with first.open('rb') as file:
        _, world_size, token = read_header(file, first)
    paths = [path_of(folder, rank) for rank in range(world_size)]
    for rank, path in enumerate(paths):
        source = f'the folder {folder.name} on the machine of process {rank}'
        if not path.is_file():
            raise FileNotFoundError(
                f'{folder}: {path.name} is missing; {world_size} processes wrote these predictions: copy it from '
                f'{source}'
            )
        with path.open('rb') as file:
            if read_header(file, path) != (rank, world_size, token):
                raise PredictionError(
                    'other-test',
                    f'{path} belongs to another test than {first}: copy that of the same test from {source}',
                )
    return PredictionFiles(paths)


def read_predictions(path: Path, index: int = 0) -> Iterator[Prediction]:
    """The predictions of one process; masks stay in the file and are given by their offsets.

    If the file ends within a record, as after a crash, the complete records are used, and the log reports it.

    Args:
        path: the file.
        index: its number among several, for ``Prediction.file``.

    Raises:
        PredictionError: ``not-predictions`` or ``damaged-file``.
    """
    size, number = path.stat().st_size, 0
    with path.open('rb') as file:
        read_header(file, path)
        while (start := file.tell()) < size:
            where = f'{path} is damaged: record {number + 1}, at byte {start}'
            head = file.read(RECORD.size)
            if len(head) == RECORD.size:
                marker, length, checksum = RECORD.unpack(head)
                if marker != MARKER:
                    raise PredictionError('damaged-file', f'{where}, does not start with the marker of a record')
            if len(head) < RECORD.size or file.tell() + length > size:
                MMLogger.get_current_instance().warning(
                    f'{path} ends within a record, as after a crash: the {number} complete records are used'
                )
                return
            payload = file.read(length)
            if zlib.crc32(payload) != checksum:
                raise PredictionError('damaged-file', f'{where}, has a wrong checksum')
            try:
                prediction = decode_prediction(payload, file.tell(), index)
            except (struct.error, ValueError) as error:
                raise PredictionError('damaged-file', f'{where}: {error}') from error
            yield prediction
            number += 1

"""The file format of predictions.

A file is its header (:data:`HEADER`: magic, rank, number of ranks, token of the test) and records. A record is
:data:`RECORD` (marker, bytes of the payload, their CRC-32) and the payload: :data:`IMAGE` (id, n, height and width of
the masks, flags), boxes (n x 4 float32, x1 y1 x2 y2), scores (n float32), labels (n int32), optional mask scores
(n float32), and for masks the lengths (n uint32) and bytes of their compressed RLE. All is little-endian.
"""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from apa_mmdet.utils.errors import CodedError

HEADER, MAGIC = struct.Struct('<8sII16s'), b'APAPRED1'
RECORD, MARKER = struct.Struct('<4sQI'), b'IMG:'
IMAGE = struct.Struct('<qIIIB')
WITH_MASK_SCORES, WITH_MASKS = 1, 2


class PredictionError(CodedError):
    """Predictions that cannot be written, read or evaluated; docs/fault_tolerance.md lists the codes."""


class Masks(NamedTuple):
    """n masks as compressed RLE: their ``counts`` or, when read from a file, the ``offsets`` and ``lengths`` there."""

    size: tuple[int, int]
    counts: Sequence[bytes] = ()
    offsets: np.ndarray | None = None
    lengths: np.ndarray | None = None


class Prediction(NamedTuple):
    """Detections of an image: boxes (n, 4) as x1 y1 x2 y2, scores, labels, and optional masks and mask scores."""

    image_id: int
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    mask_scores: np.ndarray | None = None
    masks: Masks | None = None
    file: int = 0  # index of the file it was read from


def path_of(folder: Path, rank: int) -> Path:
    return folder / f'rank{rank}.predictions'


def read_header(file: BinaryIO, path: Path) -> tuple[int, int, bytes]:
    """Rank, number of ranks, token."""
    header = file.read(HEADER.size)
    if len(header) < HEADER.size or not header.startswith(MAGIC):
        raise PredictionError('not-predictions', f'{path} is not a file of predictions, or its beginning was cut off')
    return HEADER.unpack(header)[1:]


def encode_prediction(prediction: Prediction) -> bytes:
    """The payload of a record; raises ``struct.error`` for an image id that is not an integer of 64 bits."""
    image_id, boxes, scores, labels, mask_scores, masks, _ = prediction
    flags = WITH_MASK_SCORES * (mask_scores is not None) + WITH_MASKS * (masks is not None)
    parts = [IMAGE.pack(image_id, len(scores), *(masks.size if masks else (0, 0)), flags)]
    for values, dtype in ((boxes, '<f4'), (scores, '<f4'), (labels, '<i4'), (mask_scores, '<f4')):
        if values is not None:
            parts.append(np.asarray(values, dtype).tobytes())
    if masks:
        parts += [np.array([len(counts) for counts in masks.counts], '<u4').tobytes(), *masks.counts]
    return b''.join(parts)


def decode_prediction(payload: bytes, end: int, file: int) -> Prediction:
    """The prediction in a payload that ends at byte ``end`` of file number ``file``.

    Raises:
        struct.error, ValueError: if the payload is too short or too long.
    """
    image_id, n, height, width, flags = IMAGE.unpack_from(payload)
    position = IMAGE.size

    def read(dtype: str, columns: int = 1) -> np.ndarray:
        nonlocal position
        values = np.frombuffer(payload, dtype, n * columns, position).copy()  # a view would keep the payload
        position += values.nbytes
        return values

    boxes, scores, labels = read('<f4', 4).reshape(n, 4), read('<f4'), read('<i4')
    mask_scores = read('<f4') if flags & WITH_MASK_SCORES else None
    masks = None
    if flags & WITH_MASKS:
        lengths = read('<u4').astype(np.int64)
        offsets = end - len(payload) + position + lengths.cumsum() - lengths
        masks = Masks((height, width), offsets=offsets, lengths=lengths)
        position += int(lengths.sum())
    if position != len(payload):
        raise ValueError(f'it has {len(payload)} bytes instead of {position}')
    return Prediction(image_id, boxes, scores, labels, mask_scores, masks, file)

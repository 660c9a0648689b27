"""Bringing the prediction files of all processes to rank 0."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed
from mmengine import dist

from apa_mmdet.utils.fileio import atomic_open

from .prediction_store import HEADER, PredictionError, PredictionWriter, name_file, path_of

CHUNK_BYTES = 16 * 2**20  # sent to another process at once


def gather_files(writer: PredictionWriter) -> list[Path]:
    """Paths of the files of all ranks on rank 0, an empty list elsewhere; all ranks call it before they close theirs.

    A file that rank 0 does not see in its own folder is sent there through torch.distributed, chunk by chunk.

    Raises:
        OSError: on every rank if a rank cannot finish its own file; on rank 0 if it cannot write a received one.
        PredictionError: ``other-test``, on every rank, if another test has written to a file.
    """
    rank, world_size = dist.get_dist_info()
    size, error = 0, None
    try:
        writer.flush()
        size = writer.path.stat().st_size
        if not _is_complete(writer.path, writer.header, size):
            raise PredictionError('other-test', f'another test has written to {writer.path}')
    except (OSError, PredictionError) as caught:
        error = caught
    states = dist.all_gather_object((writer.header, size, error))
    for *_, error in states:
        if error:
            raise error
    paths = [path_of(writer.folder, i) for i in range(world_size)]
    missing = [[i for i, (header, size, _) in enumerate(states) if not _is_complete(paths[i], header, size)]]
    dist.broadcast_object_list(missing)  # as rank 0 sees it
    failures = []
    for sender in missing[0]:
        if rank == 0:
            failures += _receive(paths[sender], states[sender][1], sender)
        elif rank == sender:
            _send(writer.path)
    if failures:
        raise failures[0]
    return paths if rank == 0 else []


def _is_complete(path: Path, header: bytes, size: int) -> bool:
    try:
        with path.open('rb') as file:
            return os.fstat(file.fileno()).st_size == size and file.read(HEADER.size) == header
    except OSError:
        return False


def _send(path: Path) -> None:
    with path.open('rb') as file:
        while chunk := file.read(CHUNK_BYTES):
            tensor = torch.frombuffer(bytearray(chunk), dtype=torch.uint8)
            torch.distributed.send(tensor.to(dist.get_comm_device()), 0)


def _receive(path: Path, size: int, sender: int) -> list[OSError]:
    """Write the file completely or not at all; after an error the rest is received all the same: its sender waits."""
    chunks = _received_chunks(size, sender)
    try:
        with (
            name_file(path, f'the predictions of process {sender} were received'),
            atomic_open(path, size=size) as file,
        ):
            file.writelines(chunks)
    except OSError as error:
        for _ in chunks:
            pass
        return [error]
    return []


def _received_chunks(size: int, sender: int) -> Iterator[bytes]:
    for start in range(0, size, CHUNK_BYTES):
        chunk = torch.empty(min(CHUNK_BYTES, size - start), dtype=torch.uint8, device=dist.get_comm_device())
        torch.distributed.recv(chunk, sender)
        yield chunk.cpu().numpy().tobytes()

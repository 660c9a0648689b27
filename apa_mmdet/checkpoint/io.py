"""Reads checkpoints as tensors and plain data, without running what they hold, and writes them as a whole."""

import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from apa_mmdet.utils.errors import CodedError, one_line
from apa_mmdet.utils.fileio import atomic_write

from . import safe_unpickler
from .stand_ins import Refused

DEEPEST = 100  # levels of plain data; pickle fails over some hundreds

# codes of BadCheckpoint and their meaning
CODES = {
    'runs-code': 'loading it would call something, or give a file control over an object of this process',
    'unsupported-data': 'NumPy data that are not numbers',
    'unsupported-protocol': 'a pickle protocol other than that of torch.save',
    'unsupported-scheme': 'a place of which MMEngine returns no bytes but what it made of them',
    'tar': 'a tar archive',
    'torchscript': 'a TorchScript program',
    'zip': 'a zip archive of other files',
    'empty': 'no bytes',
    'web-page': 'HTML',
    'not-a-checkpoint': 'bytes that do not begin like a file of torch.save',
    'damaged': 'a file of torch.save that is cut short or changed',
    'no-weights': 'neither a state dict nor one under `state_dict` or `model`',
    'not-resumable': 'weights without the states that a training continues from',
}


class BadCheckpoint(CodedError):
    """Raised when a file cannot be used as a checkpoint. The message names it; the code is one of :data:`CODES`."""


class Checkpoint(NamedTuple):
    """Weights, the key that they are under, plain data about them, and the names of what else the file holds."""

    weights: dict[str, Tensor]
    under: str | None
    meta: dict[str, Any]
    rest: list[str]


def load_as_data(file: str | os.PathLike | IO[bytes], map_location: Any = None) -> Any:
    """Reads a file of ``torch.save`` that holds tensors and plain data; the same for every torch and its variables.

    Raises:
        OSError: if the file cannot be read.
        BadCheckpoint: if it is damaged or not a checkpoint, or if code would have to run.
        MemoryError: if there is not enough memory for it.
        Exception: what torch or ``map_location`` raise where the file itself is sound.
    """
    if isinstance(file, (str, os.PathLike)):
        with open(file, 'rb') as stream:
            return _load(stream, os.fspath(file), map_location)
    return _load(file, getattr(file, 'name', 'the checkpoint'), map_location)


def _load(stream: IO[bytes], name: str, map_location: Any) -> Any:
    try:
        safe_unpickler.rewind(stream)
        if tarfile.is_tarfile(stream):
            raise Refused('tar', 'is a tar archive, not a checkpoint; unpack it first')
        return safe_unpickler.load(stream, map_location)
    except Refused as error:
        other = _other_format(stream, name) if error.code == 'unsupported-protocol' else None
        raise BadCheckpoint(*other or (error.code, f'{name} {error}')) from None
    except torch.cuda.OutOfMemoryError:
        raise
    except MemoryError as error:
        raise MemoryError(f'{name} needs more memory than there is, or is damaged') from error
    except Exception as error:  # torch raises all types over arbitrary bytes, OSError among them
        if _is_sound(stream):  # then it does not fit where map_location wants it
            raise
        raise BadCheckpoint(*_other_format(stream, name) or _damage(stream, name, error)) from error


def _is_sound(stream: IO[bytes]) -> bool:
    try:
        safe_unpickler.load(stream, 'cpu')
    except Exception:  # as above
        return False
    return True


def find_weights(
    content: Any, name: str | os.PathLike, keys: tuple[str, ...] = ('state_dict',)
) -> tuple[dict[str, Tensor], str | None]:
    """Returns the weights in the content of a checkpoint, and the key that they are under.

    Args:
        content: what was read.
        name: what the error calls the checkpoint.
        keys: under which they may be; otherwise they are the content itself.

    Raises:
        BadCheckpoint: if there are none.
    """
    content = content if isinstance(content, dict) else {}
    under = next((key for key in keys if isinstance(content.get(key), dict)), None)
    weights = content[under] if under else content
    strange = [
        key
        for key, value in weights.items()
        if not (isinstance(key, str) and key.isprintable() and isinstance(value, Tensor) and not value.is_nested)
    ]
    if strange or not weights:
        raise BadCheckpoint(
            'no-weights',
            f'{name} holds no weights, neither at its top level nor under {" or ".join(f"`{key}`" for key in keys)}'
            + (f'; {strange[0]!r} is not the name of a tensor' if strange else '')
            + ('; tools/convert_official_weights.py converts official weights' if 'model' not in keys else ''),
        )
    if all(key.startswith('module.') for key in weights):  # of a model inside DistributedDataParallel
        weights = {key.removeprefix('module.'): value for key, value in weights.items()}
    return weights, under


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads the weights of a checkpoint and what describes them.

    Raises:
        OSError: if the file cannot be read.
        BadCheckpoint: as :func:`load_as_data`, and if it holds no weights.
    """
    content = load_as_data(path, 'cpu')
    weights, name = find_weights(content, path, ('model', 'state_dict'))
    meta = content['meta'] if name and isinstance(content.get('meta'), dict) else {}
    # the configs among it are programs
    kept = {key: value for key, value in meta.items() if key not in ('cfg', 'config') and _is_plain(value)}
    rest = [_shown(key) for key in content if key not in (name, 'meta')] if name else []
    return Checkpoint(weights, name, kept, rest + [f'meta.{_shown(key)}' for key in meta if key not in kept])


def _shown(key: Any) -> str:
    return key if isinstance(key, str) and key.isprintable() else repr(key)


def _is_plain(value: Any) -> bool:
    """Whether it consists of numbers, texts and containers that can be saved again: neither very deep nor endless."""
    level = [value]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for part in level:
            if isinstance(part, (dict, list, tuple)):
                inner += [*part, *part.values()] if isinstance(part, dict) else part
            elif not (part is None or isinstance(part, (str, int, float))):
                return False
        level = list({id(part): part for part in inner}.values())  # what is shared counts once
        if not level:
            return True
    return False


def _names(stream: IO[bytes]) -> list[str]:
    """The names in a zip archive; none of another file, or a damaged one."""
    try:
        with zipfile.ZipFile(stream) as archive:
            return [name if name.isprintable() else repr(name) for name in archive.namelist()]
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return []


def _other_format(stream: IO[bytes], name: str) -> tuple[str, str] | None:
    """Code and message for a file that is not one of ``torch.save``, None for one that may be."""
    safe_unpickler.rewind(stream)
    start = stream.read(16)
    if not start:
        return 'empty', f'{name} is empty; download it again'
    if start.lstrip()[:1] == b'<':
        return 'web-page', f'{name} is a web page, not a checkpoint; download the file itself'
    names = _names(stream)
    if names and not any(entry.endswith('/data.pkl') for entry in names):
        return ('zip', f'{name} is a zip archive, not a checkpoint; unpack it first, it holds {", ".join(names[:3])}')
    if Path(name).name == 'last_checkpoint':
        return 'not-a-checkpoint', f'{name} is the text that names the last checkpoint; give the file that it names'
    if not start.startswith((b'PK', b'\x80\x02')):
        return (
            'not-a-checkpoint',
            f'{name} is not a checkpoint of PyTorch, it begins with {start!r}; if it is an archive, unpack it first',
        )
    return None


def _damage(stream: IO[bytes], name: str, error: Exception) -> tuple[str, str]:
    size = safe_unpickler.rewind(stream)
    line = one_line(error)
    if 'allocate memory' in line:
        return 'damaged', f'{name} needs more memory than there is, or is damaged ({size:,} bytes; {line})'
    return 'damaged', f'{name} is cut short, damaged or not a checkpoint ({size:,} bytes); download it again ({line})'


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint as a whole or not at all."""
    content = io.BytesIO()
    torch.save(checkpoint, content)
    atomic_write(path, content.getvalue())

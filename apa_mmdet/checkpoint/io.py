"""Reading a file of weights without trusting it, and writing one whole."""

import io
import os
import pickle
import re
import tarfile
import warnings
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch import Tensor

from apa_mmdet.utils.fileio import atomic_write

from . import safe_unpickler as data_pickle
from .safe_unpickler import Refused, runs_code

# how torch words that something would have to be called; the rest of what it says is about damage
NAMED = re.compile(r'unsupported (?:global: global|global) ([\w.]+)', re.IGNORECASE)
CALLED = re.compile(r'(?:Can only (?:create|build)|Trying to call)[^\n.]+')
DEEPEST = 100  # levels of plain data; pickle fails over some hundreds


class BadCheckpoint(ValueError):
    """A file is damaged, is no checkpoint, or would have to run code; the line names it and says which."""


class Checkpoint(NamedTuple):
    """What a file holds: weights, the key that they lie under, plain data about them, and the names of the rest."""

    weights: dict[str, Tensor]
    under: str | None
    meta: dict[str, Any]
    rest: list[str]


def load_as_data(file: str | os.PathLike | IO[bytes], map_location: Any = None) -> Any:
    """What ``torch.load`` gives, if that is tensors and plain data; whatever torch's version and environment variables.

    Raises:
        OSError: if the file is not there or not to be read.
        BadCheckpoint: if it is damaged or no checkpoint, or if code would have to run.
        MemoryError: if there is not enough memory for it.
        Exception: what torch or ``map_location`` raise where the file itself is sound.
    """
    named = isinstance(file, (str, os.PathLike))
    name = os.fspath(file) if named else getattr(file, 'name', 'the checkpoint')
    with open(file, 'rb') if named else nullcontext(file) as stream:
        try:
            _refuse_archives(stream)
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')  # of files that are refused anyway
                return data_pickle.load(file, map_location)
        except Refused as error:
            raise BadCheckpoint(f'{name} {error}') from None
        except torch.cuda.OutOfMemoryError:
            raise
        except MemoryError as error:
            raise MemoryError(f'{name} needs more memory than there is, or is damaged') from error
        except Exception as error:  # torch raises all kinds over arbitrary bytes, OSError among them
            if _is_sound(file, stream):  # then it does not fit where map_location wants it
                raise
            raise BadCheckpoint(f'{name} {_why_unreadable(stream, error)}') from error


def _is_sound(file: Any, stream: IO[bytes]) -> bool:
    stream.seek(0)
    try:
        data_pickle.load(file, 'cpu')
    except Exception:  # as above
        return False
    return True


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint without running anything that it holds.

    Raises:
        OSError: if the file is not there or not to be read.
        BadCheckpoint: if it is damaged or no checkpoint, if code would have to run, or if it holds no weights.
    """
    content = load_as_data(path, 'cpu')
    content = content if isinstance(content, dict) else {}
    name = next((key for key in ('model', 'state_dict') if isinstance(content.get(key), dict)), None)
    weights = content[name] if name else content
    strange = [
        key
        for key, value in weights.items()
        if not (isinstance(key, str) and key.isprintable() and isinstance(value, Tensor))
    ]
    if strange or not weights:
        raise BadCheckpoint(
            f'{path} holds no weights, neither by themselves nor under `model` or `state_dict`'
            + (f'; {strange[0]!r} is not the name of a tensor' if strange else '')
        )
    if all(key.startswith('module.') for key in weights):  # of a model inside DistributedDataParallel
        weights = {key.removeprefix('module.'): value for key, value in weights.items()}
    meta = content['meta'] if name and isinstance(content.get('meta'), dict) else {}
    # the configs among it are programs
    kept = {key: value for key, value in meta.items() if key not in ('cfg', 'config') and _is_plain(value)}
    rest = [_shown(key) for key in content if key not in (name, 'meta')] if name else []
    return Checkpoint(weights, name, kept, rest + [f'meta.{_shown(key)}' for key in meta if key not in kept])


def _shown(key: Any) -> str:
    return key if isinstance(key, str) and key.isprintable() else repr(key)


def _is_plain(value: Any) -> bool:
    """Whether it is numbers, texts and containers of these that can be written again: neither very deep nor endless."""
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


def _refuse_archives(stream: IO[bytes]) -> None:
    """Refuse archives that torch before 2.6 would read in a way that runs code."""
    if tarfile.is_tarfile(stream):
        raise Refused('is a tar archive, not a checkpoint; unpack it first')
    stream.seek(0)
    zipped = stream.read(4) == b'PK\x03\x04'  # torch's own rule
    stream.seek(0)
    # zipfile may fail over an archive that torch's reader can list
    if zipped and 'constants.pkl' in torch._C.PyTorchFileReader(stream).get_all_records():
        raise Refused('is a TorchScript program, not a checkpoint; get a file that holds weights alone')
    stream.seek(0)


def _names(stream: IO[bytes]) -> list[str]:
    """What a zip archive holds; nothing of another file, or a damaged one."""
    try:
        with zipfile.ZipFile(stream) as archive:
            return [name if name.isprintable() else repr(name) for name in archive.namelist()]
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return []


def _why_unreadable(stream: IO[bytes], error: Exception) -> str:
    """What is wrong with a file that torch fails to load."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    start = stream.read(16)
    if not start:
        return 'is empty; download it again'
    if start.lstrip()[:1] == b'<':
        return 'is a web page, not a checkpoint; download the file itself'
    names = _names(stream)
    if names and not any(name.endswith('/data.pkl') for name in names):
        return f'is a zip archive, not a checkpoint; unpack it first, it holds {", ".join(names[:3])}'
    if not start.startswith((b'PK', b'\x80\x02')):
        return f'is no checkpoint of PyTorch, it begins with {start!r}; if it is an archive, unpack it first'
    said = str(error)
    if re.search('_WEIGHTS_ONLY_LOAD|explicit pickle_module', said) and not isinstance(error, pickle.UnpicklingError):
        return 'cannot be read while TORCH_FORCE_WEIGHTS_ONLY_LOAD is set; unset it, only data are read without it too'
    refused = _refused_by_torch(said)
    if refused:
        return str(refused)
    if 'Unsupported operand' in said:
        return (
            'is damaged, or of a pickle protocol that torch does not load as mere data; download it again, or save '
            'it anew with torch.save and its own protocol'
        )
    line = _line(error)
    if 'must be imported' in line:
        return f'cannot be read yet: {line}'
    if 'allocate memory' in line:
        return f'needs more memory than there is, or is damaged ({size:,} bytes; {line})'
    return f'is cut short, damaged or no checkpoint ({size:,} bytes); download it again ({line})'


def _refused_by_torch(said: str) -> Refused | None:
    named, called = NAMED.search(said), CALLED.search(said)
    if named is None:
        return runs_code(called[0]) if called else None
    own = '.' in named[1] and 'is blocked' not in said
    return runs_code(
        named[1],
        '; if it is a class of your own that only holds data, allow it with torch.serialization.add_safe_globals'
        if own
        else '',
    )


def _line(error: Exception) -> str:
    """The first line of what torch says, without what it says of every file."""
    text = re.split('WeightsUnpickler error:|Weights only load failed.', str(error))[-1].strip()
    line = f'{type(error).__name__}: {text.splitlines()[0][:200]}' if text else type(error).__name__
    return line if line.isprintable() else repr(line)


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write it whole or not at all."""
    content = io.BytesIO()
    torch.save(checkpoint, content)
    atomic_write(path, content.getvalue())

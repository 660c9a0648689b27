"""Reading a file of weights without trusting it, and writing one whole."""
import os
import re
import tarfile
import warnings
import zipfile
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any, Dict, List, NamedTuple, Optional, Union

import torch
from torch import Tensor

from .. import compat

# how torch, and compat.py, word that something would have to be called; the rest of what they say is about damage
CODE = r'(a checkpoint may not [^;\n]+|(?:Can only (?:create|build)|Trying to call)[^\n.]+)'


class BadCheckpoint(ValueError):
    """A file is damaged, is no checkpoint, or would have to run code; the line names it and says which."""


class Checkpoint(NamedTuple):
    """What a file holds: weights, the key that they lie under, plain data about them, and the names of the rest."""

    weights: Dict[str, Tensor]
    under: Optional[str]
    meta: Dict[str, Any]
    rest: List[str]


def load_as_data(file: Union[str, os.PathLike, IO[bytes]], map_location: Any = None) -> Any:
    """What ``torch.load`` gives, if that is tensors and plain data; whatever torch's version and environment variables.

    Raises:
        OSError: if the file is not there or not to be read.
        BadCheckpoint: if it is damaged or no checkpoint, or if code would have to run.
    """
    named = isinstance(file, (str, os.PathLike))
    with open(file, 'rb') if named else nullcontext(file) as stream:
        try:
            _refuse_archives(stream)
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')  # of files that are refused anyway
                how = dict(weights_only=True) if hasattr(torch.serialization, 'add_safe_globals') else dict(
                    pickle_module=_DataPickle)
                # not torch.load, for which this one stands in while MMEngine loads
                return torch.serialization.load(file, map_location, **how)
        except Exception as error:  # torch raises all kinds over arbitrary bytes, OSError among them
            name = os.fspath(file) if named else getattr(file, 'name', 'the checkpoint')
            raise BadCheckpoint(f'{name} {_why_unreadable(stream, error)}') from None


class _DataPickle:
    """``pickle``, as far as torch uses it to load."""

    Unpickler = compat.Unpickler

    @staticmethod
    def load(file: IO[bytes], **kwargs) -> Any:
        return compat.Unpickler(file, **kwargs).load()


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
    strange = [key for key, value in weights.items()
               if not (isinstance(key, str) and key.isprintable() and isinstance(value, Tensor))]
    if strange or not weights:
        raise BadCheckpoint(f'{path} holds no weights, neither by themselves nor under `model` or `state_dict`'
                            + (f'; {strange[0]!r} is not the name of a tensor' if strange else ''))
    if all(key.startswith('module.') for key in weights):  # of a model inside DistributedDataParallel
        weights = {key.removeprefix('module.'): value for key, value in weights.items()}
    meta = content['meta'] if name and isinstance(content.get('meta'), dict) else {}
    # the config among it names modules of the code that wrote it
    kept = {key: value for key, value in meta.items() if key != 'cfg' and _is_plain(value)}
    rest = [str(key) for key in content if key not in (name, 'meta')] if name else []
    return Checkpoint(weights, name, kept, rest + [f'meta.{key}' for key in meta if key not in kept])


def _is_plain(value: Any) -> bool:
    if isinstance(value, (dict, list, tuple)):
        return all(map(_is_plain, [*value, *value.values()] if isinstance(value, dict) else value))
    return value is None or isinstance(value, (str, int, float))


class _Archive(Exception):
    """An archive that torch before 2.6 would read in a way that runs code."""


def _refuse_archives(stream: IO[bytes]) -> None:
    if tarfile.is_tarfile(stream):
        raise _Archive('is a tar archive, not a checkpoint; unpack it first')
    if any(name.endswith('/constants.pkl') for name in _names(stream)):
        raise _Archive('is a TorchScript program, not a checkpoint; get a file that holds weights alone')
    stream.seek(0)


def _names(stream: IO[bytes]) -> List[str]:
    """What a zip archive holds; nothing of another file, or a damaged one."""
    try:
        with zipfile.ZipFile(stream) as archive:
            return [name if name.isprintable() else repr(name) for name in archive.namelist()]
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return []


def _why_unreadable(stream: IO[bytes], error: Exception) -> str:
    """What is wrong with a file that torch fails to load."""
    if isinstance(error, _Archive):
        return str(error)
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
    if re.search('_WEIGHTS_ONLY_LOAD|explicit pickle_module', str(error)):
        return 'cannot be read while TORCH_FORCE_WEIGHTS_ONLY_LOAD is set; unset it, only data are read without it too'
    code = re.search(r'unsupported (?:global: global|global|class) ([\w.]+)', str(error), re.IGNORECASE) or re.search(
        CODE, str(error))
    if code:
        return f'is refused, because loading it would run code ({code[1]}); get a file that holds weights alone'
    if 'Unsupported operand' in str(error):
        return ('is damaged, or of a pickle protocol that torch does not load as mere data; download it again, or save '
                'it anew with torch.save and its own protocol')
    return f'is cut short, damaged or no checkpoint ({size:,} bytes); download it again'


def write_checkpoint(checkpoint: Dict[str, Any], path: Path) -> None:
    """Write it whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'{path.name}.unfinished')
    try:
        torch.save(checkpoint, unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)

"""Reading a file of weights without trusting it, and writing one whole."""
import os
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional

import torch
from torch import Tensor


# how torch, and compat.py, word that something would have to be called; the rest of what they say is about damage
CODE = (r'(a checkpoint may not look up [^;\n]+|[^\n.]*TorchScript[^\n.]*'
        r'|(?:Can only (?:create|build)|Trying to call)[^\n.]+)')


class Checkpoint(NamedTuple):
    """What a file holds: weights, the key that they lie under, plain data about them, and the names of the rest."""

    weights: Dict[str, Tensor]
    under: Optional[str]
    meta: Dict[str, Any]
    rest: List[str]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint without running anything that it holds.

    Raises:
        OSError: if the file is not there or not to be read.
        ValueError: if it is damaged or no checkpoint, if code would have to run, or if it holds no weights.
    """
    with path.open('rb') as file:
        start = file.read(16)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of files that are refused anyway
            content = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # torch raises all kinds over arbitrary bytes, OSError among them
        raise ValueError(f'{path} {_why_unreadable(path, start, error)}') from None
    content = content if isinstance(content, dict) else {}
    name = next((key for key in ('model', 'state_dict') if isinstance(content.get(key), dict)), None)
    weights = content[name] if name else content
    strange = [key for key, value in weights.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if strange or not weights:
        raise ValueError(f'{path} holds no weights, neither by themselves nor under `model` or `state_dict`'
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


def _why_unreadable(path: Path, start: bytes, error: Exception) -> str:
    """What is wrong with a file that torch fails to load; ``start`` are its first bytes."""
    if not start:
        return 'is empty; download it again'
    if start.lstrip()[:1] == b'<':
        return 'is a web page, not a checkpoint; download the file itself'
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, ValueError, OSError):
            names = ['/data.pkl']  # damaged; what it was meant to be does not matter
        if not any(name.endswith('/data.pkl') for name in names):
            return f'is a zip archive, not a checkpoint; unpack it first, it holds {", ".join(names[:3]) or "nothing"}'
    elif not start.startswith((b'PK', b'\x80\x02')):
        return f'is no checkpoint of PyTorch, it begins with {start!r}; if it is an archive, unpack it first'
    wanted = re.search(r'unsupported (?:global: global|global|class) ([\w.]+)', str(error), re.IGNORECASE)
    if wanted and not hasattr(torch.serialization, 'add_safe_globals') and re.match(
            r'argparse\.|mmengine\.|numpy\.|_codecs\.|builtins\.getattr', wanted[1]):
        return f'holds {wanted[1]}, which torch {torch.__version__} cannot load as mere data; torch 2.4 or newer can'
    code = wanted or re.search(CODE, str(error))
    if code:
        return f'is refused, because loading it would run code ({code[1]}); get a file that holds weights alone'
    if 'Unsupported operand' in str(error):
        return ('is damaged, or of a pickle protocol that torch does not load as mere data; download it again, or save '
                'it anew with torch.save and its own protocol')
    return f'is cut short, damaged or no checkpoint ({path.stat().st_size:,} bytes); download it again'


def write_checkpoint(checkpoint: Dict[str, Any], path: Path) -> None:
    """Write it whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'{path.name}.unfinished')
    try:
        torch.save(checkpoint, unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)

"""MMEngine's CheckpointLoader reads ``apa_mmdet://PATH_OR_URL`` as data; every other path as before.

MMEngine leaves it to torch how a file is read: by running it before torch 2.6, with TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD
and, in every version, at a URL. That of OneDL runs every file that torch refuses. Besides, ``resume`` of both runs the
text of the config in ``meta.config``.
"""

import io
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import torch
from mmengine.dist import barrier, get_rank
from mmengine.fileio import get_file_backend
from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from mmengine.runner.checkpoint import (
    CheckpointLoader,
    _get_mmengine_home,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
    load_from_ceph,
    load_from_pavi,
)
from torch import nn

from .io import BadCheckpoint, load_as_data

SCHEME = 'apa_mmdet://'
_read: ContextVar[dict[str, Any] | None] = ContextVar('_read', default=None)  # path: content, of `already_read`


def data_only(path: str | os.PathLike) -> str:
    """The path or URL under our scheme, for ``load_from`` and other arguments that end at MMEngine's CheckpointLoader.

    Example:
        >>> data_only('epoch_1.pth'), data_only(data_only('https://host/weights.pth'))
        ('apa_mmdet://epoch_1.pth', 'apa_mmdet://https://host/weights.pth')
    """
    return SCHEME + os.fspath(path).removeprefix(SCHEME)


def local_path(path: str | os.PathLike) -> str | None:
    """The file that a path, ``file://…`` or ``apa_mmdet://…`` names; None for a URL or a name of a model zoo.

    Example:
        >>> local_path('file:///data/my%20weights.pth'), local_path('apa_mmdet://a.pth'), local_path('mmcls://resnet18')
        ('/data/my weights.pth', 'a.pth', None)
    """
    path = os.fspath(path).removeprefix(SCHEME)
    if path.startswith('file://'):
        return url2pathname(urlparse(path).path)
    return None if '://' in path else os.path.expanduser(path)


@contextmanager
def already_read(contents: dict[str, Any]) -> Iterator[None]:
    """Loads of these paths in the block get what was read from them, and do not read them again."""
    token = _read.set({**(_read.get() or {}), **contents})
    try:
        yield
    finally:
        _read.reset(token)


def pretrained_parts(init_cfg: Any) -> Iterator[dict]:
    """Yields what loads a checkpoint in an ``init_cfg``: in a dict, in a list, in an ``override``."""
    if isinstance(init_cfg, (list, tuple)):
        for part in init_cfg:
            yield from pretrained_parts(part)
    elif isinstance(init_cfg, dict):
        if init_cfg.get('type') in ('Pretrained', PretrainedInit) and init_cfg.get('checkpoint'):
            yield init_cfg
        yield from pretrained_parts(init_cfg.get('override'))


def read_pretrained_as_data(model: nn.Module) -> None:
    """Puts the scheme before the ``checkpoint`` of every module's ``init_cfg``, before ``init_weights`` loads it."""
    for module in model.modules():
        for part in pretrained_parts(getattr(module, 'init_cfg', None)):
            part['checkpoint'] = data_only(part['checkpoint'])


@CheckpointLoader.register_scheme(prefixes=SCHEME)
def load_from_data_only(filename: str, map_location: Any = None) -> Any:  # MMEngine logs what follows `load_from_`
    """Reads a local file, a URL or a name of a model zoo as data, without ``meta.config``.

    What is in an object store is read through its file backend, what is under a scheme of somebody else by its loader.

    Raises:
        OSError: if there is no such file.
        BadCheckpoint: as :func:`apa_mmdet.checkpoint.io.load_as_data`; ``unsupported-scheme`` for ``pavi://``.
    """
    path = filename.removeprefix(SCHEME)
    contents = _read.get() or {}
    if path in contents:
        return contents[path]
    place = _resolve(path)
    checkpoint = _load_remote(path, map_location) if place is None else load_as_data(place, map_location)
    if os.environ.get('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '0').lower() in ('1', 'y', 'yes', 'true'):
        print_log(
            f'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD has no effect in apa_mmdet: {path} was read as data',
            'current',
            logging.WARNING,
        )
    if path.startswith('mmcls://'):  # a classifier, of which MMEngine takes the backbone
        weights = checkpoint.get('state_dict', checkpoint)
        return {'state_dict': {name[9:]: weights[name] for name in weights if name.startswith('backbone.')}}
    # a loader of somebody else may return a dict whose `get` and `pop` are the file's
    meta = dict.get(checkpoint, 'meta') if isinstance(checkpoint, dict) else None
    if isinstance(meta, dict) and dict.__contains__(meta, 'config'):
        type(meta).__delitem__(meta, 'config')
        print_log(f'meta.config of {path} is ignored: it is a program', 'current')
    return checkpoint


def _resolve(path: str) -> str | None:
    """The local file of a path, URL or name of a model zoo; None for a scheme that is not MMEngine's own."""
    file = local_path(path)
    if file is not None:
        return file
    zoo, _, name = path.partition('://')
    if zoo in ('torchvision', 'modelzoo'):
        return _download(get_torchvision_models()[name])
    if zoo in ('open-mmlab', 'openmmlab'):
        url = get_external_models()[get_deprecated_model_names().get(name, name)]
        return _download(url) if re.match('https?://', url) else os.path.join(_get_mmengine_home(), url)
    if zoo == 'mmcls':
        return _download(get_mmcls_models()[name])
    return _download(path) if zoo in ('http', 'https') else None


def _load_remote(path: str, map_location: Any) -> Any:
    loader = CheckpointLoader._get_checkpoint_loader(path)
    if loader is load_from_ceph:
        file = io.BytesIO(get_file_backend(path, backend_args=dict(backend='petrel')).get(path))
        file.name = path  # for errors
        return load_as_data(file, map_location)
    if loader is load_from_pavi:
        raise BadCheckpoint('unsupported-scheme', f'{path} cannot be read as data; download it and give its path')
    return CheckpointLoader.load_checkpoint(path, map_location)


def _download(url: str) -> str:
    """The file of a URL in torch's cache; of several processes, one downloads it."""
    path = Path(torch.hub.get_dir()) / 'checkpoints' / Path(urlparse(url).path).name
    for turn in (get_rank() == 0, get_rank() > 0):  # other machines have caches of their own
        if turn and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), progress=os.isatty(0))
        barrier()
    return str(path)

"""The supported versions of the host packages, and fixes of what is broken in them. Imports nothing of this package.

Everything else extends the host through its own doors: registries, a CheckpointLoader scheme, runner types. After
``import apa_mmdet``, what belongs to others behaves as before, but for what has no door:

- :func:`restore_np_float_for_lvis`: lvis 0.5.3 uses ``np.float``, so that LVIS evaluation fails with NumPy >= 1.24.
- :func:`let_lvis_read_images_without_annotations`: lvis 0.5.3 ends in a KeyError over LVIS's own files of test images.
- :func:`let_mmengine_read_its_checkpoints`: with torch >= 2.6, MMEngine <= 0.10.7 cannot read what it saved.
- ``SkipNonFiniteHook`` guards ``step`` of the run's own optim wrapper: MMEngine calls no hook between backward and
  step, and the config or ``--amp`` chooses the wrapper's class.
- ``registry.py``: MMEngine finds ``_base_ = 'apa_mmdet::…'`` through its table MODULE2PACKAGE, which gets an entry.

Each fix looks first whether the thing is broken, and leaves it alone where it is not.
"""

import importlib.metadata
import inspect
import os
import pickle
import re
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

# package: (first supported, first not supported); the reasons are in pyproject.toml
SUPPORTED = {
    'torch': ('2.1', None),
    'mmengine': ('0.10.0', '1.0'),
    'mmcv': ('2.0.0', '2.2.0'),
    'mmdet': ('3.3.0', '4.0'),
}
EXCLUDED = {'pycocotools': ('2.0.9', '2.0.10')}


def check_host_versions(installed: Callable[[str], str] = importlib.metadata.version) -> None:
    """Raises ImportError unless every host package lies in :data:`SUPPORTED` and none is :data:`EXCLUDED`.

    The message names the package and its range.

    Args:
        installed: gives the version of a package.
    """
    for package, (first, end) in SUPPORTED.items():
        wanted = f'{package}>={first}' + (f',<{end}' if end else '')
        try:
            version = installed(package)
        except importlib.metadata.PackageNotFoundError:
            raise ImportError(f'apa_mmdet needs {wanted}, which is not installed') from None
        if _release(version) < _release(first) or (end and _release(version) >= _release(end)):
            raise ImportError(f'apa_mmdet needs {wanted}, but {package} {version} is installed')
    for package, versions in EXCLUDED.items():
        try:
            version = installed(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # or built into another package
        if version in versions:
            wanted = ','.join(f'{package if not i else ""}!={bad}' for i, bad in enumerate(versions))
            raise ImportError(f'apa_mmdet needs {wanted}, but {package} {version} is installed')


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.match(r'\d+(\.\d+)*', version).group().split('.'))


# ---------------------------------------------------------------- MMEngine's checkpoints


def let_mmengine_read_its_checkpoints(load_as_data: Callable[[str, Any], Any]) -> None:
    """Lets MMEngine's loader of local files read what ``torch.load`` refuses only because of its default.

    Its checkpoints hold logs and NumPy numbers, which torch >= 2.6 refuses unless it is told to run the file. The own
    load of MMEngine comes first: what loads without this function loads in the same way, what fails fails alike.

    Args:
        load_as_data: reads tensors and plain data, and refuses everything else.
    """
    from mmengine import __version__
    from mmengine.runner.checkpoint import CheckpointLoader, load_from_local

    broken = _release(torch.__version__) >= (2, 6) and _release(__version__) <= (0, 10, 7)
    if not broken or CheckpointLoader._get_checkpoint_loader('epoch_1.pth') is not load_from_local:
        return

    def load_from_local_or_as_data(filename: str, map_location: Any) -> Any:
        try:
            return load_from_local(filename, map_location)
        except pickle.UnpicklingError as refused:
            try:
                return load_as_data(os.path.expanduser(filename), map_location)
            except ValueError:
                raise refused from None

    load_from_local_or_as_data.__name__ = load_from_local.__name__  # MMEngine logs it
    CheckpointLoader.register_scheme(prefixes='', loader=load_from_local_or_as_data, force=True)


# ---------------------------------------------------------------- LVIS


class NumpyWithFloat(types.ModuleType):
    """NumPy with the alias ``np.float``, which NumPy 1.24 removed."""

    float = float

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def restore_np_float_for_lvis() -> None:
    """Gives ``lvis.eval``, and only it, the ``np.float`` that lvis 0.5.3 uses."""
    import lvis.eval

    if not hasattr(np, 'float') and re.search(r'\bnp\.float\b', inspect.getsource(lvis.eval)):
        lvis.eval.np = NumpyWithFloat('numpy')


def let_lvis_read_images_without_annotations() -> None:
    """Lets ``lvis.LVIS`` read a file of images and categories, as LVIS publishes for its test images.

    A file without the key ``annotations``, over which lvis 0.5.3 ends in a KeyError, is read as if it had an empty one;
    any other is read as before.
    """
    from lvis import LVIS

    load = LVIS._load_json
    if load.__module__ == __name__ or 'self.dataset["annotations"]' not in inspect.getsource(LVIS._create_index):
        return

    def load_with_annotations(self: LVIS, path: str) -> Any:
        content = load(self, path)
        return {'annotations': [], **content} if isinstance(content, dict) else content

    LVIS._load_json = load_with_annotations

"""The supported versions of the host packages, and fixes of what is broken in them. Imports nothing of this package.

Everything else extends the host through its own doors: registries, a CheckpointLoader scheme, runner types. After
``import apa_mmdet``, what belongs to others behaves as before, but for what has no door:

- :func:`restore_np_float_for_lvis`: lvis 0.5.3 uses ``np.float``, so that LVIS evaluation fails with NumPy >= 1.24.
- :func:`let_lvis_read_images_without_annotations`: lvis 0.5.3 ends in a KeyError over LVIS's own files of test images.
- :func:`let_mmengine_read_its_checkpoints`: with torch >= 2.6, MMEngine up to 0.10.7 cannot read what it saved. (That
  of OneDL can, by running what torch refuses: our own loading paths, :mod:`apa_mmdet.checkpoint.scheme`, do not pass
  there.)
- ``SkipNonFiniteHook`` guards ``step`` of the run's own optim wrapper: MMEngine calls no hook between backward and
  step, and the config or ``--amp`` chooses the wrapper's class.
- ``registry.py``: MMEngine finds ``_base_ = 'apa_mmdet::…'`` through its table MODULE2PACKAGE, which gets an entry.

Each fix looks first whether the thing is broken, and leaves it alone where it is not.
"""

import contextlib
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

# module: (first supported, first not supported). Newer ones of torch are tried, not refused.
TORCH = ('2.1', None)
# A host: its extra in pyproject.toml, and its modules with their distributions and bounds, in the order of their
# imports. The lines share the names of the modules, which tell them apart by their versions: an environment may also
# hold a source tree, a fork or a build of its own under any distribution's name, and what runs is the module.
HOSTS = {
    'openmmlab': {
        'mmengine': ('mmengine', '0.10.3', '1.0'),
        'mmcv': ('mmcv', '2.1.0', '2.2.0'),
        'mmdet': ('mmdet', '3.3.0', '3.4.0'),
    },
    'onedl': {
        'mmengine': ('onedl-mmengine', '0.10.12', '1.0'),
        'mmcv': ('onedl-mmcv', '2.3.6', '2.4.0'),
        'mmdet': ('onedl-mmdetection', '3.5.1', '3.6.0'),
    },
}
EXCLUDED = {'pycocotools': ('2.0.9', '2.0.10')}


def module_version(name: str) -> str:
    """Imports a module of the host and returns its ``__version__``.

    Raises:
        ModuleNotFoundError: if there is none.
        ImportError: if it cannot be imported, with the cause in the same line.
    """
    try:
        module = importlib.import_module(name)
    except Exception as error:  # mmdet asserts the versions of mmcv and mmengine
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            raise
        raise ImportError(f'{name} cannot be imported: {_one_line(error)}') from error
    version = getattr(module, '__version__', None)
    if version is None:  # a folder of that name in the path
        raise ModuleNotFoundError(f'No module named {name!r}', name=name)
    return version


def check_host_versions(version_of: Callable[[str], str] = module_version) -> None:
    """Raises ImportError unless torch and one of :data:`HOSTS` have supported versions and nothing is excluded.

    The message names what was found, with the distributions that brought it, and what to install.

    Args:
        version_of: gives the version of a module, and raises ModuleNotFoundError if there is none.
    """
    first, end = TORCH
    if not _within(version_of('torch'), first, end):
        raise ImportError(f'apa_mmdet needs torch{_bounds(first, end)}, but torch {version_of("torch")} is installed')
    found: dict[str, str] = {}
    left = list(HOSTS)
    for module in HOSTS[left[0]]:
        try:
            found[module] = version_of(module)
        except ModuleNotFoundError:
            raise ImportError(f'{module} is not installed: {_advice(found)}') from None
        except ImportError as error:
            raise ImportError(f'{error}: {_advice(found)}') from error
        left = [host for host in left if _within(found[module], *HOSTS[host][module][1:])]
        if not left:
            raise ImportError(f'{module} {found[module]} is not supported here: {_advice(found)}')
    for package, versions in EXCLUDED.items():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # or built into another package
            version = importlib.metadata.version(package)
            if version in versions:
                wanted = ','.join(f'{package if not i else ""}!={bad}' for i, bad in enumerate(versions))
                raise ImportError(f'apa_mmdet needs {wanted}, but {package} {version} is installed')


def check_mmcv_operators() -> None:
    """Raises ImportError if mmcv has no operators, or such as were built for another torch."""
    try:
        importlib.import_module('mmcv._ext')
    except ImportError as error:
        mmcv = importlib.import_module('mmcv')
        raise ImportError(
            f'the operators of mmcv {mmcv.__version__} do not load with torch {torch.__version__} '
            f'({_one_line(error)}): uninstall it (mmcv-lite has none) and install one that is built for this torch, as '
            'docs/get_started.md says'
        ) from error


def _advice(found: dict[str, str]) -> str:
    """What is there and what fits, for the end of a message."""
    providers = importlib.metadata.packages_distributions()
    there = ', '.join(
        f'{module} {version} (of {", ".join(sorted(set(providers.get(module, ["a folder"]))))})'
        for module, version in found.items()
    )
    ways = ' or '.join(
        f'{" ".join(name + _bounds(first, end) for name, first, end in modules.values())} (apa_mmdet[{host}])'
        for host, modules in HOSTS.items()
    )
    return f'{f"found {there}; " if there else ""}install {ways}'


def _bounds(first: str, end: str | None) -> str:
    return f'>={first}' + (f',<{end}' if end else '')


def _within(version: str, first: str, end: str | None) -> bool:
    return _release(first) <= _release(version) and (end is None or _release(version) < _release(end))


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version without zeros at their end, so that 2.1 and 2.1.0 are the same."""
    numbers = [int(number) for number in re.match(r'\d+(\.\d+)*', version).group().split('.')]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _one_line(error: BaseException) -> str:
    return ' '.join(str(error).split())


# ---------------------------------------------------------------- MMEngine's checkpoints


def let_mmengine_read_its_checkpoints(load_as_data: Callable[[str, Any], Any]) -> None:
    """Lets MMEngine's loader of local files read what ``torch.load`` refuses only because of its default.

    Its checkpoints hold logs and NumPy numbers, which torch >= 2.6 refuses unless it is told to run the file. The own
    load of MMEngine comes first: what loads without this function loads in the same way, what fails fails alike.

    Args:
        load_as_data: reads tensors and plain data, and refuses everything else.
    """
    from mmengine.runner.checkpoint import CheckpointLoader, load_from_local

    if CheckpointLoader._get_checkpoint_loader('epoch_1.pth') is not load_from_local:  # a user's
        return
    if 'torch.load(filename, map_location=map_location)' not in inspect.getsource(load_from_local):
        return  # it does not leave to torch how a file is read

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

"""Reads configs, with options of the command line, and builds their models."""

from collections.abc import Iterator
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from .config_parts import (
    BadConfig,
    class_counts,
    evaluators,
    is_classifier,
    leaves,
    metrics_of,
    model_parts,
    section,
    unwrapped,
    walk,
)
from .errors import one_line
from .shorthand_options import spell_out

__all__ = [
    'BadConfig',
    'apply_options',
    'build_detector',
    'class_counts',
    'evaluators',
    'is_classifier',
    'leaves',
    'load_config',
    'metrics_of',
    'model_parts',
    'read_config',
    'section',
    'unwrapped',
    'walk',
]

NEEDS_MMPRETRAIN = (
    "image classification needs MMPretrain, which is not installed; pip install 'apa_mmdet[classification]', beside "
    "the onedl packages 'apa_mmdet[onedl-classification]'"
)


def load_config(path: str | Path, options: dict | None = None) -> Config:
    """Reads a config.

    Args:
        path: of the file.
        options: settings that override the file's, as of ``--cfg-options``; ``data_root``, ``classes``, ``max_epochs``
            and ``max_iters`` change everything that depends on them, see :func:`~.shorthand_options.spell_out`.

    Raises:
        BadConfig: whatever is wrong with it.
    """
    return apply_options(read_config(path), path, options)[0]


def read_config(path: str | Path) -> Config:
    """Reads a config as it is in its file.

    Raises:
        BadConfig: whatever is wrong with it; ``needs-mmpretrain``, if it is one of image classification, and MMPretrain
            is not installed.
    """
    if not Path(path).is_file():
        raise BadConfig('not-found', f'config {path}: no such file')
    try:
        return Config.fromfile(path)
    except Exception as error:  # a config is a program: anything may come out of it
        if find_spec('mmpretrain') is None and any('mmpretrain' in str(cause) for cause in _causes(error)):
            raise BadConfig('needs-mmpretrain', f'config {path}: {NEEDS_MMPRETRAIN}') from None
        raise BadConfig('broken', f'config {path}: {one_line(error)}') from None


def apply_options(cfg: Config, path: str | Path, options: dict | None) -> tuple[Config, dict[str, Any]]:
    """Merges options into a config, in place; returns it, and the options spelled out for what reads the file again.

    Args:
        cfg: of :func:`read_config`.
        path: what errors call it.
        options: as of :func:`load_config`.

    Raises:
        BadConfig: if an option cannot be applied.
    """
    try:
        options = spell_out(cfg, options or {})
        cfg.merge_from_dict(deepcopy(options))  # merging takes _delete_ out of them
    except BadConfig as error:
        raise BadConfig(error.code, f'config {path}: {error}') from None
    except Exception as error:
        raise BadConfig('broken', f'config {path}: {one_line(error)}') from None
    return cfg, options


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def build_detector(cfg: Config, path: str | Path, part: str | None = None) -> nn.Module:
    """Builds the model of a config, on the CPU, without loading weights.

    Args:
        cfg: the config.
        path: what errors call it.
        part: ``backbone`` builds only that part of a detector.

    Raises:
        BadConfig: if there is no such model, or it cannot be built.
    """
    model = cfg.get('model')
    if not isinstance(model, dict) or (part and not isinstance(model.get(part), dict)):
        raise BadConfig('no-detector', f'{path} has no model{f".{part}" if part else ""}; use the config of a detector')
    try:
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmdet'):
            return MODELS.build(model[part] if part else model)
    except Exception as error:  # as above
        raise BadConfig('not-buildable', f'config {path}: its model cannot be built: {one_line(error)}') from error

"""Reads configs, with options of the command line, and builds their models."""

from copy import deepcopy
from pathlib import Path
from typing import Any

from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from .config_parts import ELSEWHERE, BadConfig, _dict, evaluators, leaves, metrics_of, model_parts, walk
from .errors import one_line
from .shorthand_options import spell_out

__all__ = [
    'ELSEWHERE',
    'BadConfig',
    '_dict',
    'build_detector',
    'evaluators',
    'leaves',
    'load_config',
    'load_with_options',
    'metrics_of',
    'model_parts',
    'walk',
]


def load_config(path: str | Path, options: dict | None = None) -> Config:
    """Reads a config.

    Args:
        path: of the file.
        options: settings that override the file's, as of ``--cfg-options``; ``data_root``, ``classes``, ``max_epochs``
            and ``max_iters`` change everything that depends on them, see :func:`~.shorthand_options.spell_out`.

    Raises:
        BadConfig: whatever is wrong with it.
    """
    return load_with_options(path, options)[0]


def load_with_options(path: str | Path, options: dict | None = None) -> tuple[Config, dict[str, Any]]:
    """Returns a config as :func:`load_config` does, and the options spelled out, for what reads the file again."""
    if not Path(path).is_file():
        raise BadConfig('not-found', f'config {path}: no such file')
    try:
        cfg = Config.fromfile(path)
        options = spell_out(cfg, options or {})
        cfg.merge_from_dict(deepcopy(options))  # merging takes _delete_ out of them
    except BadConfig as error:
        raise BadConfig(error.code, f'config {path}: {error}') from None
    except Exception as error:  # a config is a program: anything may come out of it
        raise BadConfig('broken', f'config {path}: {one_line(error)}') from None
    return cfg, options


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

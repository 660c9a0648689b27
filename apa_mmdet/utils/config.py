"""Reading configs, and what they say of their data sets, evaluators and models."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .errors import one_line

ELSEWHERE = ('backbone', 'neck', 'rpn_head', 'semantic_head', 'data_preprocessor')  # num_classes means something else


def load_config(path: str, options: dict | None = None) -> Config:
    """Read a config.

    Raises:
        ValueError: whatever is wrong with it, in one line.
    """
    if not Path(path).is_file():
        raise ValueError(f'config {path}: no such file')
    try:
        cfg = Config.fromfile(path)
        cfg.merge_from_dict(options or {})
    except Exception as error:  # a config is a program: anything may come out of it
        raise ValueError(f'config {path}: {one_line(error)}') from None
    return cfg


def _dict(cfg: Config, key: str) -> dict:
    found = cfg.get(key) or {}
    if not isinstance(found, dict):
        raise ValueError(f'{key} is {found!r}; it must be a dict')
    return found


def leaves(dataset: dict | list | None) -> Iterator[dict]:
    """The data sets inside ClassBalancedDataset, RepeatDataset, ConcatDataset and their like."""
    for part in dataset if isinstance(dataset, (list, tuple)) else [dataset] if dataset else []:
        if not isinstance(part, dict):
            raise ValueError(f'a data set of the config is {part!r}; it must be a dict')
        inner = part.get('dataset') or part.get('datasets')
        yield from leaves(inner) if inner else [part]


def evaluators(cfg: Config, splits: Sequence[str]) -> Iterator[tuple[str, dict]]:
    """Split and config of each evaluator."""
    for split in splits:
        found = cfg.get(f'{split}_evaluator') or []
        if isinstance(found, dict) and 'metrics' in found:
            found = found['metrics']
        for evaluator in found if isinstance(found, (list, tuple)) else [found]:
            if not isinstance(evaluator, dict):
                raise ValueError(f'{split}_evaluator has {evaluator!r}; it must be a dict')
            yield split, evaluator


def model_parts(node: Any, path: str = 'model') -> Iterator[tuple[str, dict]]:
    """Every dict of a model's config with its path, but those where ``num_classes`` means something else.

    Example:
        >>> [path for path, _ in model_parts(dict(rpn_head=dict(num_classes=1), bbox_head=[dict(num_classes=3)]))]
        ['model', 'model.bbox_head[0]']
    """
    if isinstance(node, dict):
        yield path, node
        for key, value in node.items():
            if key not in ELSEWHERE:
                yield from model_parts(value, f'{path}.{key}')
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from model_parts(value, f'{path}[{i}]')

"""Finds the data sets, evaluators and parts of a model in a config."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mmengine.config import Config

from .errors import CodedError

ELSEWHERE = ('backbone', 'neck', 'rpn_head', 'semantic_head', 'data_preprocessor')  # num_classes means something else


class BadConfig(CodedError):
    """Raised when a config cannot be read, or a model cannot be built from it. The message names the file.

    Codes: ``not-found``, ``broken``, ``not-buildable``, ``needs-mmpretrain``; ``no-detector``, ``no-dataset``,
    ``no-metric``, ``no-activation`` and ``no-image-size`` for what it lacks; and ``bad-option`` for an option of the
    command line that cannot be applied.
    """


def section(cfg: Config, key: str) -> dict:
    """A part of a config, empty where there is none; BadConfig if it is not a dict."""
    found = cfg.get(key) or {}
    if not isinstance(found, dict):
        raise BadConfig('broken', f'{key} is {found!r}; it must be a dict')
    return found


def leaves(dataset: dict | list | None) -> Iterator[dict]:
    """Yields the data sets inside ClassBalancedDataset, RepeatDataset, ConcatDataset and other wrappers."""
    for part in dataset if isinstance(dataset, (list, tuple)) else [dataset] if dataset else []:
        if not isinstance(part, dict):
            raise BadConfig('broken', f'a data set of the config is {part!r}; it must be a dict')
        inner = part.get('dataset') or part.get('datasets')
        yield from leaves(inner) if inner else [part]


def evaluators(cfg: Config, splits: Sequence[str]) -> Iterator[tuple[str, dict]]:
    """Yields the split and the config of each metric, also inside evaluators of several data sets."""
    for split in splits:
        for evaluator in metrics_of(cfg.get(f'{split}_evaluator') or []):
            if not isinstance(evaluator, dict):
                raise BadConfig('broken', f'{split}_evaluator has {evaluator!r}; it must be a dict')
            yield split, evaluator


def metrics_of(evaluator: Any) -> Iterator[Any]:
    """Yields the metrics of an evaluator's config: a metric, a list of them, or a dict with ``metrics``.

    Example:
        >>> a, b = dict(type='A'), dict(type='B')
        >>> list(metrics_of(dict(type='ConcatDatasetEvaluator', metrics=[[a, b], b]))) == [a, b, b]
        True
    """
    if isinstance(evaluator, dict) and 'metrics' in evaluator:
        evaluator = evaluator['metrics']
    if isinstance(evaluator, (list, tuple)):
        for part in evaluator:
            yield from metrics_of(part)
    else:
        yield evaluator


def model_parts(node: Any, path: str = 'model') -> Iterator[tuple[str, dict]]:
    """Yields every dict of a model's config with its path, except where ``num_classes`` means something else.

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


class ClassCount(NamedTuple):
    """A setting of a number of classes, as ``--cfg-options`` takes it. ``is_used``: the part has outputs by class."""

    setting: str
    number: int
    is_used: bool


def class_counts(model: Any) -> Iterator[ClassCount]:
    """Yields the numbers of classes in a model's config.

    Skipped is that of GroundingDINOHead, which are the words of a text.

    Example:
        >>> heads = [dict(num_classes=3), dict(num_classes=80, class_agnostic=True)]
        >>> for found in class_counts(dict(bbox_head=heads)):
        ...     print(*found)
        model.bbox_head.0.num_classes 3 True
        model.bbox_head.1.num_classes 80 False
    """
    for path, part in model_parts(model):
        count, name = part.get('num_classes'), part.get('type')
        name = name if isinstance(name, str) else getattr(name, '__name__', '')
        if isinstance(count, int) and name.rpartition('.')[2] != 'GroundingDINOHead':
            setting = f'{path.replace("[", ".").replace("]", "")}.num_classes'
            yield ClassCount(setting, count, not part.get('class_agnostic'))


def is_classifier(cfg: Config) -> bool:
    """Whether a config is one of MMPretrain, whose tools start it and whose classifier it builds."""
    return cfg.get('default_scope') == 'mmpretrain'


def walk(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yields every value of a config below ``path`` with its dotted key, as ``--cfg-options`` takes it."""
    yield path, node
    for key, value in node.items() if isinstance(node, dict) else ():
        yield from walk(value, f'{path}.{key}')
    for i, value in enumerate(node) if isinstance(node, (list, tuple)) else ():
        yield from walk(value, f'{path}.{i}')

"""Finds the data sets, evaluators and parts of a model in a config."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from mmengine.config import Config

from .errors import CodedError

ELSEWHERE = ('backbone', 'neck', 'rpn_head', 'semantic_head', 'data_preprocessor')  # num_classes means something else
# what builds the module of a config in ``module``, with the arguments of its own
WRAPPERS = dict(SwapActivations=('swap', 'include', 'exclude'), CalibrateScores=('calibration',))


class BadConfig(CodedError):
    """Raised when a config cannot be read, or a model cannot be built from it. The message names the file.

    Codes: ``not-found``, ``broken``, ``not-buildable``, ``needs-mmpretrain``; for what it lacks ``no-detector``,
    ``no-dataset``, ``no-metric``, ``no-activation``, ``no-image-loader`` and ``no-image-size``; ``bad-option`` for an
    option of the command line that cannot be applied.
    """


def section(cfg: Config | dict, key: str) -> dict:
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


def model_parts(model: Any) -> Iterator[tuple[str, dict]]:
    """Yields every dict of a model's config with its dotted key, except where ``num_classes`` means something else.

    Example:
        >>> [key for key, _ in model_parts(dict(rpn_head=dict(num_classes=1), bbox_head=[dict(num_classes=3)]))]
        ['model', 'model.bbox_head.0']
    """
    for key, node in walk(model, 'model'):
        if isinstance(node, dict) and not set(ELSEWHERE).intersection(key.split('.')):
            yield key, node


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
    for key, part in model_parts(model):
        count = part.get('num_classes')
        if isinstance(count, int) and _type_name(part) != 'GroundingDINOHead':
            yield ClassCount(f'{key}.num_classes', count, not part.get('class_agnostic'))


def _type_name(part: dict) -> str:
    """The name of what a config builds, without a scope."""
    name = part.get('type')
    return (name if isinstance(name, str) else getattr(name, '__name__', '')).rpartition('.')[2]


def unwrapped(node: Any, wrappers: Collection[str] = tuple(WRAPPERS)) -> Any:
    """A model's config, or a part of it, where what builds another module stands for that module, with its arguments.

    Args:
        node: the config.
        wrappers: which of :data:`WRAPPERS`.

    Example:
        >>> swap = dict(ReLU=dict(type='APA'))
        >>> unwrapped(dict(type='SwapActivations', module=dict(type='ResNet'), swap=swap, depth=50))
        {'type': 'ResNet', 'depth': 50}
    """
    if isinstance(node, (list, tuple)):
        inner = [unwrapped(item, wrappers) for item in node]
        return tuple(inner) if isinstance(node, tuple) else inner
    if not isinstance(node, dict):
        return node
    name = _type_name(node)
    if name in wrappers and isinstance(node.get('module'), dict):
        own = 'type', 'module', '_scope_', *WRAPPERS[name]
        return unwrapped({**node['module'], **{key: value for key, value in node.items() if key not in own}}, wrappers)
    return {key: unwrapped(value, wrappers) for key, value in node.items()}


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

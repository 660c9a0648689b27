"""What a config says about its data sets: which there are, what they are used for, which classes its model has."""
from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple, Union

from mmcv.transforms import BaseTransform
from mmdet.datasets import CocoDataset, CocoPanopticDataset
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import DATASETS, TRANSFORMS
from mmengine.config import Config

USE = ('pipeline', 'test_mode', 'filter_cfg', 'indices', '_scope_')  # how a data set is used, not which it is
ELSEWHERE = ('backbone', 'neck', 'rpn_head', 'semantic_head', 'data_preprocessor')  # num_classes means something else


class Source(NamedTuple):
    """A data set of a config without its wrappers, and what it is used for."""

    cfg: dict
    splits: List[str]
    pipelines: List[list]


def find_sources(cfg: Config, splits: Sequence[str]) -> List[Source]:
    """The data sets of the config's loaders, each once."""
    sources: Dict[str, Source] = {}
    for split in splits:
        for leaf in leaves((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
            plain = {key: value for key, value in leaf.items() if key not in USE}
            source = sources.setdefault(repr(sorted(plain.items())), Source(plain, [], []))
            source.pipelines.append(leaf.get('pipeline') or [])
            if split not in source.splits:
                source.splits.append(split)
    return list(sources.values())


def leaves(dataset: Union[dict, list, None]) -> Iterator[dict]:
    """The data sets inside ClassBalancedDataset, RepeatDataset, ConcatDataset and their like."""
    for part in dataset if isinstance(dataset, (list, tuple)) else [dataset] if dataset else []:
        inner = part.get('dataset') or part.get('datasets')
        yield from leaves(inner) if inner else [part]


def open_dataset(source: Source) -> CocoDataset:
    """The data set itself, of the class that training takes, before it reads its annotations.

    Raises:
        ValueError: if its class is not known.
        NotImplementedError: if it reads another format than COCO's.
    """
    name = source.cfg.get('type')
    kind = _resolve(DATASETS, name)
    if kind is None:
        raise ValueError(f'no data set class {name} is registered; correct its name, or import its module with '
                         'custom_imports')
    if not issubclass(kind, CocoDataset) or issubclass(kind, CocoPanopticDataset):
        raise NotImplementedError(f"not checked: {kind.__name__} does not read instances in COCO's format")
    return DATASETS.build(dict(source.cfg, pipeline=[], test_mode=True, lazy_init=True))


def image_loader(source: Source) -> BaseTransform:
    """The transform with which training, or else testing, loads the images."""
    loaders = [step for pipeline in source.pipelines for step in pipeline if 'LoadImage' in str(step.get('type'))]
    return TRANSFORMS.build(loaders[0] if loaders else dict(type='LoadImageFromFile'))


def mask_use(source: Source, cfg: Config) -> str:
    """Whether each instance needs a mask: ``required``, ``optional`` or ``unused``."""
    steps = [(_resolve(TRANSFORMS, step.get('type')), step) for pipeline in source.pipelines for step in pipeline]
    loaders = [TRANSFORMS.build(step) for kind, step in steps
               if isinstance(kind, type) and issubclass(kind, LoadAnnotations)]
    stock = [t._process_masks.__func__ is LoadAnnotations._process_masks for t in loaders if t.with_mask]
    if any(stock) or any('segm' in (e.get('metric') or ()) for _, e in evaluators(cfg, source.splits)):
        return 'required'
    return 'optional' if stock else 'unused'


def _resolve(registry, kind: Any) -> Any:
    return registry.get(kind) if isinstance(kind, str) else kind


def evaluators(cfg: Config, splits: Sequence[str]) -> Iterator[Tuple[str, dict]]:
    """Split and config of each evaluator."""
    for split in splits:
        found = cfg.get(f'{split}_evaluator') or []
        for evaluator in found if isinstance(found, (list, tuple)) else [found]:
            yield split, evaluator


def model_parts(node: Any, path: str = 'model') -> Iterator[Tuple[str, dict]]:
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

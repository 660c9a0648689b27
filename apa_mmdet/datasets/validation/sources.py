"""What a config says about its data sets: which there are, what they are used for, which classes its model has."""

import codecs
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmcv.transforms import BaseTransform
from mmdet.datasets import CocoDataset, CocoPanopticDataset, V3DetDataset
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import DATASETS, TRANSFORMS
from mmengine.config import Config

from apa_mmdet.utils.config import _dict, evaluators, leaves, model_parts

USE = ('pipeline', 'test_mode', 'filter_cfg', 'indices', '_scope_')  # how a data set is used, not which it is


class Source(NamedTuple):
    """A data set of a config without its wrappers, and the splits and full configs in which it is used."""

    cfg: dict
    uses: list[tuple[str, dict]]

    @property
    def splits(self) -> list[str]:
        return list(dict.fromkeys(split for split, _ in self.uses))

    def steps(self, *splits: str) -> list[dict]:
        """The transforms of its pipelines, of all splits or of these."""
        return [step for split, use in self.uses if not splits or split in splits for step in use.get('pipeline') or []]


class Use(NamedTuple):
    """What is done with an annotation file."""

    masks: str = 'unused'  # each instance needs one: required; some may lack it: optional
    annotated: bool = True  # whether annotations are needed at all
    evaluated: bool = False  # metrics read the file themselves, also the instances that the data set leaves out
    evaluated_as_coco: bool = False
    evaluated_as_lvis: bool = False
    evaluates_masks: bool = False


def find_sources(cfg: Config, splits: Sequence[str]) -> list[Source]:
    """The data sets of the config's loaders, each once."""
    sources: dict[str, Source] = {}
    for split in splits:
        for leaf in leaves(_dict(cfg, f'{split}_dataloader').get('dataset')):
            plain = {key: value for key, value in leaf.items() if key not in USE}
            sources.setdefault(repr(sorted(plain.items())), Source(plain, [])).uses.append((split, leaf))
    return list(sources.values())


def open_dataset(source: Source) -> CocoDataset:
    """The data set itself, of the class that training takes, before it reads its annotations.

    Raises:
        ValueError: if its class is not known.
        NotImplementedError: if it reads another format than COCO's.
    """
    name = source.cfg.get('type')
    kind = _resolve(DATASETS, name)
    if kind is None:
        raise ValueError(
            f'no data set class {name} is registered; correct its name, or import its module with custom_imports'
        )
    if not issubclass(kind, CocoDataset) or issubclass(kind, CocoPanopticDataset):
        raise NotImplementedError(f"not checked: {kind.__name__} does not read instances in COCO's format")
    return DATASETS.build(dict(source.cfg, pipeline=[], test_mode=True, lazy_init=True))


def name_list(source: Source) -> str | None:
    """Path of the file from which V3Det's data set reads its class names; None for other data sets.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not plain UTF-8.
    """
    kind = _resolve(DATASETS, source.cfg.get('type'))
    if not (isinstance(kind, type) and issubclass(kind, V3DetDataset)):
        return None
    default = inspect.signature(V3DetDataset).parameters['label_file'].default
    path = Path(source.cfg.get('data_root') or '', source.cfg.get('label_file', default))
    data = path.read_bytes()
    if data.startswith(codecs.BOM_UTF8):
        raise ValueError(
            f'{path} begins with a byte order mark, which would belong to the first class name; save it without one'
        )
    try:
        data.decode()
    except UnicodeDecodeError:
        raise ValueError(f'{path} is not UTF-8; save it in that encoding, or get it again') from None
    return str(path)


def image_loader(source: Source) -> BaseTransform:
    """The transform with which training, or else testing, loads the images."""
    loaders = [step for step in source.steps() if 'LoadImage' in str(step.get('type'))]
    return TRANSFORMS.build(loaders[0] if loaders else dict(type='LoadImageFromFile'))


def find_use(source: Source, cfg: Config) -> Use:
    """What is done with the annotation file of a data set, by its pipelines and evaluators."""
    loaders = [loader for loader in _annotation_loaders(source.steps()) if loader.with_mask]
    stock = any(loader._process_masks.__func__ is LoadAnnotations._process_masks for loader in loaders)
    judges = [evaluator for _, evaluator in evaluators(cfg, source.splits) if not evaluator.get('format_only')]
    readers = [evaluator for evaluator in judges if evaluator.get('ann_file')]
    required = stock or any(map(_is_segm, judges))
    return Use(
        'required' if required else 'optional' if loaders else 'unused',
        annotated='train' in source.splits or bool(judges),
        evaluated=bool(readers),
        evaluated_as_coco=any('Coco' in str(evaluator.get('type')) for evaluator in readers),
        evaluated_as_lvis=any('LVIS' in str(evaluator.get('type')) for evaluator in readers),
        evaluates_masks=any(map(_is_segm, readers)),
    )


def _is_segm(evaluator: dict) -> bool:
    return 'segm' in (evaluator.get('metric') or ())


def lacks_masks(source: Source, cfg: Config) -> bool:
    """Whether the model has a mask head to train, but the training pipeline loads no masks."""
    loaders = _annotation_loaders(source.steps('train'))
    heads = [part['mask_head'] for _, part in model_parts(cfg.get('model')) if part.get('mask_head')]
    learning = any('BoxInst' not in str(head) for head in heads)  # which learns masks from boxes
    return learning and bool(loaders) and not any(loader.with_mask for loader in loaders)


def _annotation_loaders(steps: list[dict]) -> list[LoadAnnotations]:
    kinds = [(_resolve(TRANSFORMS, step.get('type')), step) for step in steps]
    return [
        TRANSFORMS.build(step) for kind, step in kinds if isinstance(kind, type) and issubclass(kind, LoadAnnotations)
    ]


def _resolve(registry, kind: Any) -> Any:
    return registry.get(kind) if isinstance(kind, str) else kind

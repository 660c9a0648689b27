"""The data sets of a config: which they are, and what their annotations are used for."""

import inspect
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmcv.transforms import BaseTransform
from mmdet.datasets import CocoDataset, CocoPanopticDataset, V3DetDataset
from mmdet.datasets.samplers import ClassAwareSampler
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.evaluation.metrics.coco_metric import CocoMetric
from mmdet.evaluation.metrics.lvis_metric import LVISFixedAPMetric, LVISMetric
from mmdet.models import BoxInstMaskHead
from mmdet.registry import DATA_SAMPLERS, DATASETS, METRICS, MODELS, TRANSFORMS
from mmengine.config import Config
from mmengine.dataset import ClassBalancedDataset

from apa_mmdet.datasets.annotations.encodings import guess_encoding
from apa_mmdet.datasets.image_loader_step import image_loader_step
from apa_mmdet.utils.config import evaluators, leaves, model_parts, section
from apa_mmdet.utils.findings import Findings, ValidationError
from apa_mmdet.utils.registered_classes import builds, class_of

USAGE_KEYS = ('pipeline', 'test_mode', 'filter_cfg', 'indices', '_scope_')  # how a data set is used, not which it is


class ConfigDataset(NamedTuple):
    """A data set of a config without its wrappers, and the splits and full configs in which it is used."""

    cfg: dict
    uses: list[tuple[str, dict]]

    @property
    def splits(self) -> list[str]:
        return list(dict.fromkeys(split for split, _ in self.uses))

    def transforms(self, *splits: str) -> list[dict]:
        """The transforms of its pipelines, of all splits or of these."""
        return [step for split, use in self.uses if not splits or split in splits for step in use.get('pipeline') or []]


class AnnotationUsage(NamedTuple):
    """What an annotation file is used for."""

    masks: str = 'unused'  # 'required': each instance needs one; 'optional': some may lack it
    annotated: bool = True  # whether annotations are needed at all
    trained: bool = True
    evaluated: bool = False  # metrics read the file themselves, also the instances that the data set skips
    evaluated_as_coco: bool = False
    evaluated_as_lvis: bool = False
    knows_classes_by_name: bool = True  # whether all metrics take a label for a position in the classes
    evaluates_masks: bool = False
    plain_mask_head: str | None = None  # type of a mask head that learns from these masks and knows no missing ones
    polygons_only: bool = False  # whether training reads no run-length masks
    keeps_annotation_ids: bool = False  # whether a metric identifies matches by the ids of the file


def find_datasets(cfg: Config, splits: Sequence[str]) -> list[ConfigDataset]:
    """The data sets of the config's dataloaders, each once."""
    datasets: dict[str, ConfigDataset] = {}
    for split in splits:
        for leaf in leaves(section(cfg, f'{split}_dataloader').get('dataset')):
            plain = {key: value for key, value in leaf.items() if key not in USAGE_KEYS}
            datasets.setdefault(repr(sorted(plain.items())), ConfigDataset(plain, [])).uses.append((split, leaf))
    return list(datasets.values())


def check_wrappers(cfg: Config, splits: Sequence[str], findings: Findings) -> None:
    """Check that what counts the classes of images, by ``get_cat_ids``, is around no wrapper that hides them."""
    for split in splits:
        loader = section(cfg, f'{split}_dataloader')
        counting = [
            (f'{split}_dataloader.dataset', part, part.get('dataset'))
            for part in _wrappers(loader.get('dataset'))
            if builds(part, ClassBalancedDataset, DATASETS)
        ]
        if builds(loader.get('sampler'), ClassAwareSampler, DATA_SAMPLERS):
            counting.append((f'{split}_dataloader.sampler', loader['sampler'], loader.get('dataset')))
        for setting, counter, dataset in counting:
            cls = class_of(dataset, DATASETS)
            if cls and not hasattr(cls, 'get_cat_ids'):
                owner = getattr(counter['type'], '__name__', counter['type'])
                findings.add('uncounted-classes', [setting], setting=setting, owner=owner, type=cls.__name__)


def _wrappers(dataset: Any) -> Iterator[dict]:
    """Yields the wrappers of a data set."""
    for part in dataset if isinstance(dataset, (list, tuple)) else [dataset]:
        inner = (part.get('dataset') or part.get('datasets')) if isinstance(part, dict) else None
        if inner:
            yield part
            yield from _wrappers(inner)


def open_dataset(dataset: ConfigDataset) -> tuple[CocoDataset, Path | None]:
    """Build the data set, of the class that training takes, without reading its annotations.

    Returns:
        The data set, and for V3Det's the file from which it reads its class names.

    Raises:
        FileNotFoundError: if there is no such file.
        ValidationError: if it is not plain UTF-8, or if the class of the data set is not known, or reads another format
            than COCO's ('not-checked').
    """
    cls = class_of(dataset.cfg, DATASETS)
    if cls is None:
        raise ValidationError.of('unknown-dataset-type', type=dataset.cfg.get('type'))
    if not issubclass(cls, CocoDataset) or issubclass(cls, CocoPanopticDataset):
        raise ValidationError.of('not-checked', type=cls.__name__)
    names = None
    if issubclass(cls, V3DetDataset):
        default = inspect.signature(V3DetDataset).parameters['label_file'].default
        names = Path(dataset.cfg.get('data_root') or '', dataset.cfg.get('label_file', default))
        try:
            if names.read_text('utf-8').startswith('\ufeff'):
                raise ValidationError.of('byte-order-mark', path=names)  # it would belong to the first class name
        except UnicodeDecodeError:
            raise ValidationError.of('not-utf8', path=names, encoding=guess_encoding(names.read_bytes())) from None
    return DATASETS.build(dict(dataset.cfg, pipeline=[], test_mode=True, lazy_init=True)), names


def image_loader(dataset: ConfigDataset) -> BaseTransform:
    """The transform with which training, or else testing, loads the images."""
    loader = TRANSFORMS.build(image_loader_step(dataset.transforms()) or dict(type='LoadImageFromFile'))
    loader.ignore_empty = False  # what training would skip is an error here
    return loader


def find_usage(dataset: ConfigDataset, cfg: Config) -> AnnotationUsage:
    """What the annotation file of a data set is used for, by its pipelines and evaluators."""
    loaders = [loader for loader in _annotation_loaders(dataset.transforms()) if loader.with_mask]
    training = _annotation_loaders(dataset.transforms('train'))
    stock = any(loader._process_masks.__func__ is LoadAnnotations._process_masks for loader in loaders)
    evaluating = [evaluator for evaluator in _evaluators_of(dataset, cfg) if not evaluator.get('format_only')]
    readers = [evaluator for evaluator in evaluating if evaluator.get('ann_file')]
    lvis = [builds(evaluator, (LVISMetric, LVISFixedAPMetric), METRICS) for evaluator in readers]
    coco = [builds(evaluator, CocoMetric, METRICS) for evaluator in readers]  # LVISMetric is one too
    required = stock or any(map(_is_segm, evaluating))
    return AnnotationUsage(
        'required' if required else 'optional' if loaders else 'unused',
        annotated='train' in dataset.splits or bool(evaluating),
        trained='train' in dataset.splits,
        evaluated=bool(readers),
        evaluated_as_coco=any(is_coco and not is_lvis for is_coco, is_lvis in zip(coco, lvis)),
        evaluated_as_lvis=any(lvis),
        knows_classes_by_name=all(
            getattr(class_of(evaluator, METRICS), 'knows_classes_by_name', False) for evaluator in readers
        ),
        evaluates_masks=any(map(_is_segm, readers)),
        plain_mask_head=_plain_mask_head(cfg) if loaders and not required and 'train' in dataset.splits else None,
        polygons_only=any(loader.with_mask and not loader.poly2mask for loader in training),
        keeps_annotation_ids=not all(
            getattr(class_of(evaluator, METRICS), 'renumbers_annotations', False) for evaluator in readers
        ),
    )


def _evaluators_of(dataset: ConfigDataset, cfg: Config) -> Iterator[dict]:
    """The metrics of its splits, but for those that read the annotations of another data set of the split."""
    own = _ann_file(dataset.cfg)
    for split, evaluator in evaluators(cfg, dataset.splits):
        others = {_ann_file(leaf) for leaf in leaves(section(cfg, f'{split}_dataloader').get('dataset'))} - {own}
        if not evaluator.get('ann_file') or os.path.realpath(evaluator['ann_file']) not in others:
            yield evaluator


def _ann_file(dataset: dict) -> str:
    return os.path.realpath(os.path.join(dataset.get('data_root') or '', dataset.get('ann_file') or ''))


def _is_segm(evaluator: dict) -> bool:
    return 'segm' in (evaluator.get('metric') or ())


def lacks_masks(dataset: ConfigDataset, cfg: Config) -> bool:
    """Whether the model has a mask head to train, but the training pipeline loads no masks."""
    loaders = _annotation_loaders(dataset.transforms('train'))
    return bool(_mask_heads(cfg) and loaders) and not any(loader.with_mask for loader in loaders)


def _mask_heads(cfg: Config) -> list[dict]:
    """The mask heads of the model that learn from masks."""
    found = [part['mask_head'] for _, part in model_parts(cfg.get('model')) if part.get('mask_head')]
    heads = [head for heads in found for head in (heads if isinstance(heads, (list, tuple)) else [heads])]
    return [head for head in heads if head and not builds(head, BoxInstMaskHead)]  # which learns masks from boxes


def _plain_mask_head(cfg: Config) -> str | None:
    for head in _mask_heads(cfg):
        cls = class_of(head, MODELS)
        if not getattr(cls, 'ignores_missing_masks', False):
            return getattr(cls, '__name__', None) or str(head.get('type'))
    return None


def _annotation_loaders(transforms: list[dict]) -> list[LoadAnnotations]:
    return [TRANSFORMS.build(step) for step in transforms if builds(step, LoadAnnotations, TRANSFORMS)]

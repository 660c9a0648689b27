"""Validates the data sets of image classification: lists, folders and labels.

A data set of classification is one that has ``get_gt_labels``, as all of MMPretrain's; MMPretrain is not imported here.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from mmengine import fileio
from mmengine.config import Config
from mmengine.registry import DATASETS, TRANSFORMS, init_default_scope

from apa_mmdet.datasets.annotations.class_counts import load_class_counts, shots_of
from apa_mmdet.datasets.annotations.image_lists import read_image_list
from apa_mmdet.datasets.image_loader_step import image_loader_step
from apa_mmdet.utils.config import evaluators
from apa_mmdet.utils.errors import CodedError
from apa_mmdet.utils.findings import Findings, ValidationError
from apa_mmdet.utils.registered_classes import class_of

from .config_datasets import ConfigDataset, check_wrappers, find_datasets
from .images import check_images
from .report import Report, report_error
from .shared_images import check_shared_images

COLUMNS = ('data set', 'images', 'classes', 'without image', 'many (> 100)', 'medium', 'few (< 20)')


class LabeledImages(NamedTuple):
    """What is kept of a data set: paths (empty where the images are in memory), labels, and the number of classes."""

    name: str
    splits: list[str]
    paths: list[str]
    labels: np.ndarray
    classes: int

    def row(self) -> tuple:
        counts = np.bincount(self.labels[self.labels < self.classes], minlength=self.classes)
        shots = (int(((shots_of(counts) == name) & (counts > 0)).sum()) for name in ('many', 'medium', 'few'))
        return self.name, len(self.labels), self.classes, int((counts == 0).sum()), *shots


def validate_classifier(
    cfg: Config, splits: Sequence[str], images: bool | None, workers: int, progress: bool
) -> Report:
    """Validates the data sets of a classifier's config; arguments as of :func:`~.validate_config.validate_config`.

    Without ``images`` (None), as before a training, folders are not listed either, only lists are read.
    """
    init_default_scope(cfg.get('default_scope'))
    datasets = find_datasets(cfg, splits)
    findings, checked = Findings('config'), []
    if not datasets:
        findings.add('no-dataset', loaders=' or '.join(f'{split}_dataloader' for split in splits))
    check_wrappers(cfg, splits, findings)
    for source in datasets:
        of_dataset = Findings(', '.join(source.splits))
        content = _check_dataset(source, cfg, of_dataset, images)
        if content is not None:
            checked.append(content)
            _check_labels(content, of_dataset)
            if images is not None and content.paths:
                paths = [(path,) for path in dict.fromkeys(content.paths)]
                check_images(paths, _image_loader(source), of_dataset, images, workers, progress)
        findings += of_dataset
    check_shared_images(checked, findings, by_content=images is True)
    model = Findings('model')
    _check_model(cfg, checked, splits, model)
    return Report([*findings, *model], [content.row() for content in checked if len(content.labels)], COLUMNS)


def _check_dataset(source: ConfigDataset, cfg: Config, findings: Findings, images: bool | None) -> Any:
    """Reads a data set as training does; None if that is impossible."""
    number = _num_classes(cfg)
    try:
        dataset = _build(source)
        packed = _missing_files(dataset)
        if packed:
            raise FileNotFoundError(2, 'missing', packed)
        ann_file = getattr(dataset, 'ann_file', '')
        is_list = bool(ann_file) and os.path.splitext(ann_file)[1] != '.json'
        if is_list and getattr(dataset, 'with_label', True):
            names, labels = read_image_list(ann_file)  # by itself: a dict for each of a million images takes longer
            root = fileio.join_path(dataset.img_prefix, '')
            paths = [root + name for name in names]
            return LabeledImages(findings.dataset, source.splits, paths, labels, len(dataset.CLASSES or ()) or number)
        if images is None and hasattr(dataset, 'is_valid_file'):
            return _check_folders(dataset, findings)
        data = dataset.load_data_list()
    except Exception as error:  # data sets may be the user's own
        return report_error(error, findings, [getattr(error, 'filename', None) or str(source.cfg.get('ann_file'))])
    if data and 'gt_label' not in data[0]:
        return findings.add('no-labels', [source.cfg.get('type')], type=source.cfg.get('type'))
    paths = [info['img_path'] for info in data] if data and 'img_path' in data[0] else []
    labels = np.array([info['gt_label'] for info in data], np.int64).reshape(-1)
    return LabeledImages(findings.dataset, source.splits, paths, labels, len(dataset.CLASSES or ()) or number)


def _build(source: ConfigDataset) -> Any:
    cls = class_of(source.cfg, DATASETS)
    if cls is None:
        raise ValidationError.of('unknown-dataset-type', type=source.cfg.get('type'))
    if not hasattr(cls, 'get_gt_labels'):
        raise ValidationError.of('not-checked', type=cls.__name__)
    return DATASETS.build(dict(source.cfg, pipeline=[], lazy_init=True))


def _missing_files(dataset: Any) -> str | None:
    """The first missing file of a data set that comes as an archive, as CIFAR: a check is not to download it."""
    root = (getattr(dataset, 'data_prefix', None) or {}).get('root')
    files = [*getattr(dataset, 'train_list', ()), *getattr(dataset, 'test_list', ())]
    paths = (fileio.join_path(root, dataset.base_folder, name) for name, _ in files if root)
    return next((path for path in paths if not fileio.exists(path)), None)


def _check_folders(dataset: Any, findings: Findings) -> None:
    """Checks that a folder has as many folders in it as there are classes."""
    folders = sum(entry.is_dir() for entry in os.scandir(dataset.img_prefix)) if '://' not in dataset.img_prefix else 0
    known = len(dataset.CLASSES or ())
    if known and folders and folders != known:
        findings.add('folder-count', [dataset.img_prefix], path=dataset.img_prefix, folders=folders, classes=known)


def _image_loader(source: ConfigDataset) -> Any:
    step = image_loader_step(source.transforms()) or dict(type='LoadImageFromFile')
    with TRANSFORMS.switch_scope_and_registry(None) as registry:
        return registry.build(dict(step, ignore_empty=False))


def _num_classes(cfg: Config) -> int:
    """Of the model's head; 0 if it does not say."""
    head = (cfg.get('model') or {}).get('head')
    number = head.get('num_classes') if isinstance(head, dict) else None
    return number if isinstance(number, int) else 0


def _check_labels(content: LabeledImages, findings: Findings) -> None:
    labels, total = content.labels, len(content.labels)
    if not total:
        return findings.add('no-labeled-image')
    names = content.paths or list(range(total))
    if content.classes:
        wrong = np.flatnonzero((labels < 0) | (labels >= content.classes))
        details = [f'label {labels[i]}' for i in wrong[:3]]
        values = dict(last=content.classes - 1)
        findings.report('label-outside-classes', [names[i] for i in wrong], total, details, **values)
        counts = np.bincount(labels[(labels >= 0) & (labels < content.classes)], minlength=content.classes)
        if 'train' in content.splits:
            findings.report('class-without-instance', np.flatnonzero(counts == 0).tolist(), content.classes)
    if len(set(content.paths)) < len(content.paths):
        _check_repeated(content, findings)


def _check_repeated(content: LabeledImages, findings: Findings) -> None:
    """Reports images that are listed more than once, with one label or several."""
    labels_of: dict[str, list[int]] = defaultdict(list)
    for path, label in zip(content.paths, content.labels.tolist()):
        labels_of[path].append(label)
    twice = {path: sorted(set(labels)) for path, labels in labels_of.items() if len(labels) > 1}
    several = {path: f'labels {labels}' for path, labels in twice.items() if len(labels) > 1}
    total = len(content.paths)
    findings.report('several-labels', list(several), total, list(several.values()))
    findings.report('repeated-image', [path for path in twice if path not in several], total)


def _check_model(cfg: Config, checked: Sequence[LabeledImages], splits: Sequence[str], findings: Findings) -> None:
    """Compares the classes of the data sets, the head, the preprocessor and the class counts of metrics."""
    number = _num_classes(cfg)
    preprocessor = (cfg.get('model') or {}).get('data_preprocessor') or {}
    mixed = preprocessor.get('num_classes')
    for content in checked:
        if number and content.classes != number:
            values = dict(count=number, dataset=content.name, number=content.classes)
            findings.add('num-classes-mismatch', ['model.head.num_classes'], setting='model.head.num_classes', **values)
    if number and isinstance(mixed, int) and mixed != number:
        setting = 'model.data_preprocessor.num_classes'
        findings.add('num-classes-mismatch', [setting], setting=setting, count=mixed, dataset='the head', number=number)
    for split, evaluator in evaluators(cfg, splits) if number else ():
        counts = evaluator.get('class_counts')
        try:
            if counts is not None:
                load_class_counts(counts, number)
        except (OSError, CodedError) as error:
            setting = f'{split}_evaluator.class_counts'
            findings.add('unusable-class-counts', [setting], setting=setting, reason=error)

"""Validates the data sets of a config before training: files, images, categories and class names."""

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.datasets import CocoDataset, LVISV05Dataset
from mmengine import fileio
from mmengine.config import Config
from mmengine.registry import init_default_scope
from tqdm import tqdm

from apa_mmdet.datasets.annotations.class_names import SPELLINGS
from apa_mmdet.datasets.annotations.reading import read_annotations
from apa_mmdet.datasets.annotations.selection import BY_NAME
from apa_mmdet.utils.config import evaluators, is_classifier, leaves
from apa_mmdet.utils.errors import one_line
from apa_mmdet.utils.findings import Findings, ValidationError
from apa_mmdet.utils.garbage import paused_collection

from .annotations import Content, Summary, check_annotations, check_integer_ids, check_lvis_fields
from .classes import check_model, check_training_classes, compare_classes
from .config_datasets import (
    AnnotationUsage,
    ConfigDataset,
    check_wrappers,
    find_datasets,
    find_usage,
    image_loader,
    lacks_masks,
    open_dataset,
)
from .images import AnnotatedImage, check_images
from .labeled_images import validate_classifier
from .report import CheckedDataset, Report, report_error
from .shared_images import check_shared_images
from .stamps import check_once

SPLITS = ('train', 'val', 'test')
OURS = 'mmdet.', 'apa_mmdet.'


def validate_config(
    cfg: Config, splits: Sequence[str] = SPLITS, images: bool | None = True, workers: int = 0, progress: bool = True
) -> Report:
    """Validate the data sets of a config, and compare them with its model and its evaluators.

    Args:
        cfg: a config with CocoDataset, LVISV05Dataset, LVISV1Dataset, V3DetDataset or subclasses of them; or one of a
            classifier of MMPretrain.
        splits: which of ``train``, ``val``, ``test``. A data set that several share is read once.
        images: True decodes every image, False only checks that it exists, None skips images, and annotations that
            have not changed since the last time.
        workers: processes that read images; 0 reads them in this one.
        progress: show progress bars, on a terminal.
    """
    if is_classifier(cfg):
        return validate_classifier(cfg, splits, images, workers, progress)
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    datasets = find_datasets(cfg, splits)
    findings = Findings('config')
    if not datasets:
        findings.add('no-dataset', loaders=' or '.join(f'{split}_dataloader' for split in splits))
    check_wrappers(cfg, splits, findings)
    checked = []
    bar = tqdm(datasets, unit='data set', disable=not progress or None)
    for dataset in bar:
        of_dataset = Findings(_name(dataset, datasets))
        bar.set_description(of_dataset.dataset)
        checked += filter(None, [_check_dataset(dataset, cfg, of_dataset, images, workers, progress)])
        findings += of_dataset
    training, model = Findings('train'), Findings('model')
    check_training_classes(checked, training)
    check_shared_images(checked, findings, by_content=images is True)
    check_model(cfg, checked, model)
    return Report([*findings, *training, *model], [c.row() for c in checked if c.content])


def _name(dataset: ConfigDataset, datasets: list[ConfigDataset]) -> str:
    shared = [other.splits for other in datasets].count(dataset.splits) > 1  # parts of a ConcatDataset
    return ', '.join(dataset.splits) + f' ({dataset.cfg.get("ann_file")})' * shared


def _check_dataset(
    source: ConfigDataset, cfg: Config, findings: Findings, images: bool | None, workers: int, progress: bool
) -> CheckedDataset | None:
    try:
        dataset, label_file = open_dataset(source)
        usage, loader = find_usage(source, cfg), image_loader(source)
        maskless = lacks_masks(source, cfg)
    except Exception as error:  # data sets and transforms may be the user's own
        return report_error(error, findings)
    classes = dataset.metainfo.get('classes')
    if isinstance(classes, str) or not classes:
        return findings.add('invalid-classes', classes=classes)
    checked = CheckedDataset(findings.dataset, source.splits, dataset.ann_file, tuple(classes))
    _check_evaluators(checked, cfg, findings)
    if maskless:
        findings.add('no-mask-loading')
    if not dataset.ann_file:
        findings.add('no-ann-file')
        return checked
    annotation_file = _AnnotationFile(source, dataset, checked, usage, loader, label_file)
    if images is None and type(dataset).__module__.startswith(OURS):  # the code of others may have changed
        return checked._replace(content=check_once(dataset.ann_file, annotation_file.usage, findings, annotation_file))
    summary = annotation_file(findings)
    if not summary or images is None:
        return checked._replace(content=summary)
    check_images(annotation_file.paths, loader, findings, images, workers, progress)
    return checked._replace(content=summary, paths=[path for path, *_ in annotation_file.paths])


class _AnnotationFile:
    """Checks an annotation file, all but the images; calling it returns a summary, None if it cannot be read.

    Attributes:
        usage: what the result depends on beside the file.
        paths: the images, after a call.
    """

    def __init__(
        self,
        source: ConfigDataset,
        dataset: CocoDataset,
        checked: CheckedDataset,
        usage: AnnotationUsage,
        loader: BaseTransform,
        label_file: Path | None,
    ) -> None:
        self._source, self._dataset, self._checked, self._usage = source, dataset, checked, usage
        self._loader, self._label_file, self.paths = loader, label_file, []
        filters = [(split, use.get('filter_cfg'), use.get('test_mode')) for split, use in source.uses]
        cls, backend_args = type(dataset), getattr(loader, 'backend_args', None)
        names = f'{cls.__module__}.{cls.__qualname__}', sorted(source.cfg.items()), checked.classes, label_file
        self.usage = repr((*names, usage, filters, backend_args))

    def __call__(self, findings: Findings) -> Summary | None:
        dataset, source = self._dataset, self._source
        selective = bool(dataset.metainfo.get(BY_NAME))
        # LVISV1Dataset too is a LVISV05Dataset: label = position in the file
        by_name = selective or not isinstance(dataset, LVISV05Dataset)
        label_file = None if source.cfg.get('metainfo') else self._label_file
        content = _read(self._checked, by_name, selective, self._usage, label_file, findings)
        if not content:
            return None
        _check_filters(source, content, findings)
        if self._usage.evaluated_as_lvis:
            check_lvis_fields(content.images, content.categories, findings)
        elif self._usage.evaluated_as_coco and not self._usage.keeps_annotation_ids:  # FastCocoMetric
            check_integer_ids(content.images, content.categories, findings)
        paths = _image_paths(dataset, content, findings)
        folder = (dataset.data_prefix or {}).get('img') or ''
        outside = [path for path, *_ in paths if _is_outside(path, folder)]
        findings.report('image-outside-folder', outside, len(paths), folder=folder or '.')
        self.paths = _without_backslashes(paths, self._loader, findings)
        return content.summary()


def _check_evaluators(checked: CheckedDataset, cfg: Config, findings: Findings) -> None:
    for split, evaluator in evaluators(cfg, checked.splits):
        other, setting = evaluator.get('ann_file'), f'{split}_evaluator.ann_file'
        single = len(list(leaves(cfg[f'{split}_dataloader']['dataset']))) == 1
        if other and single and os.path.realpath(other) != os.path.realpath(checked.ann_file):
            findings.add('evaluator-file-mismatch', [setting], setting=setting, path=other, ann_file=checked.ann_file)


def _read(
    checked: CheckedDataset,
    by_name: bool,
    selective: bool,
    usage: AnnotationUsage,
    label_file: Path | None,
    findings: Findings,
) -> Content | None:
    """Read and check the annotation file; None if that is impossible. ``selective``: labels follow the classes."""
    try:
        annotations = read_annotations(checked.ann_file)
    except (OSError, ValidationError) as error:
        return report_error(error, findings, [checked.ann_file])
    known = {*checked.classes, *(theirs for theirs, name in SPELLINGS.items() if name in checked.classes)}
    content = check_annotations(annotations, findings, known if by_name else None, usage)
    if content.categories:
        names = [c['name'] for c in content.categories]
        any_order = selective and usage.knows_classes_by_name
        finds_by_name = any_order or (by_name and not usage.evaluated_as_lvis)  # LVIS's metrics number all of the file
        if any_order:
            order = {SPELLINGS.get(name, name): i for i, name in enumerate(checked.classes)}
            names.sort(key=lambda name: order.get(SPELLINGS.get(name, name), len(order)))
        compare_classes(checked.classes, names, finds_by_name, findings, label_file)
    return content


def _check_filters(source: ConfigDataset, content: Content, findings: Findings) -> None:
    """Check that training keeps an image, by the rule of ``CocoDataset.filter_data``."""
    for split, use in source.uses:
        rule = use.get('filter_cfg')
        if split == 'train' and rule and content.labeled.any() and not use.get('test_mode'):
            large = np.array([min(r['width'], r['height']) >= rule.get('min_size', 0) for r in content.images], bool)
            kept = large & (content.labeled | (not rule.get('filter_empty_gt', False)))
            if not kept.any():
                findings.add('no-image-kept', rule=dict(rule), total=len(kept))


def _image_paths(dataset: CocoDataset, content: Content, findings: Findings) -> list[AnnotatedImage]:
    """Path, height and width of each image, as the data set finds them in the annotation file without annotations."""
    unnamed = [not all(isinstance(r.get(key, ''), str) for key in ('file_name', 'coco_url')) for r in content.images]
    findings.check('invalid-image-path', content.images, unnamed)
    images = [image for image, skipped in zip(content.images, unnamed) if not skipped]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        dataset.ann_file = os.path.join(folder, 'images.json')
        records = dict(images=images, annotations=[], categories=content.categories)
        Path(dataset.ann_file).write_text(json.dumps(records))
        try:
            with paused_collection():
                return [(r['img_path'], r['height'], r['width']) for r in dataset.load_data_list()]
        except ValidationError:  # classes that the file lacks, which are reported
            return []
        except Exception as error:
            reason = f'no {error} in data_prefix or "images"' if isinstance(error, KeyError) else one_line(error)
            findings.add('unknown-image-path', dataset=type(dataset).__name__, reason=reason)
            return []


def _without_backslashes(
    paths: list[AnnotatedImage], loader: BaseTransform, findings: Findings
) -> list[AnnotatedImage]:
    """Report paths with the separators of Windows, elsewhere, unless there are files of such names; the other paths."""
    wrong = [path for path, *_ in paths if '\\' in path] if os.sep == '/' else []
    backend_args = getattr(loader, 'backend_args', None)
    try:
        if not wrong or fileio.isfile(wrong[0], backend_args=backend_args):
            return paths
    except Exception:  # backends raise what they like; opening the image tells
        return paths
    findings.report('backslash-path', wrong, len(paths))
    return [image for image in paths if '\\' not in image[0]]


def _is_outside(path: str, folder: str) -> bool:
    """Whether an image is outside the data set's folder: annotations should not choose which files are opened."""
    if '://' in folder:
        return not path.startswith(folder) or '/../' in path
    if '://' in path:
        return True
    return bool(folder) and os.path.relpath(path, folder).split(os.sep)[0] == os.pardir

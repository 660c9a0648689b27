"""Validates the data sets of a config before training: files, images, categories and class names."""

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmdet.datasets import CocoDataset, LVISV05Dataset
from mmengine.config import Config
from mmengine.registry import init_default_scope
from tqdm import tqdm

from apa_mmdet.utils.config import evaluators, leaves
from apa_mmdet.utils.errors import one_line
from apa_mmdet.utils.missing_data_hints import explain

from .annotations import Content, check_annotations, check_lvis_fields
from .classes import check_model, check_training_classes, compare_classes
from .config_datasets import (
    AnnotationUsage,
    ConfigDataset,
    find_datasets,
    find_usage,
    image_loader,
    lacks_masks,
    name_list,
    open_dataset,
)
from .findings import Findings, ValidationError
from .images import check_images
from .reading import read_annotations
from .report import CheckedDataset, Report

SPLITS = ('train', 'val', 'test')


def validate_config(
    cfg: Config, splits: Sequence[str] = SPLITS, images: bool | None = True, workers: int = 0, progress: bool = True
) -> Report:
    """Validate the data sets of a config, and compare them with its model and its evaluators.

    Args:
        cfg: a config with CocoDataset, LVISV05Dataset, LVISV1Dataset, V3DetDataset or subclasses of them.
        splits: which of ``train``, ``val``, ``test``. A data set that several share is read once.
        images: True decodes every image, False only checks that it exists, None skips images.
        workers: processes that read images; 0 reads them in this one.
        progress: show progress bars, on a terminal.
    """
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    datasets = find_datasets(cfg, splits)
    findings = Findings('config')
    if not datasets:
        findings.add('no-dataset', loaders=' or '.join(f'{split}_dataloader' for split in splits))
    checked = []
    bar = tqdm(datasets, unit='data set', disable=None if progress else True)
    for dataset in bar:
        of_dataset = Findings(_name(dataset, datasets))
        bar.set_description(of_dataset.dataset)
        checked += filter(None, [_check_dataset(dataset, cfg, of_dataset, images, workers, progress)])
        findings += of_dataset
    training, model = Findings('train'), Findings('model')
    check_training_classes(checked, training)
    check_model(cfg, checked, model)
    return Report([*findings, *training, *model], [c.row() for c in checked if c.content])


def _name(dataset: ConfigDataset, datasets: list[ConfigDataset]) -> str:
    name = ', '.join(dataset.splits)
    shared = sum(other.splits == dataset.splits for other in datasets) > 1  # parts of a ConcatDataset
    return f'{name} ({dataset.cfg.get("ann_file")})' if shared else name


def _check_dataset(
    source: ConfigDataset, cfg: Config, findings: Findings, images: bool | None, workers: int, progress: bool
) -> CheckedDataset | None:
    try:
        label_file, dataset = name_list(source), open_dataset(source)
        usage, loader = find_usage(source, cfg), image_loader(source)
        maskless = lacks_masks(source, cfg)
    except ValidationError as error:
        return findings.add(error.code, error.ids, str(error))
    except FileNotFoundError as error:
        return findings.add('missing-file', [error.filename], explain(error))
    except Exception as error:  # data sets and transforms may be the user's own
        return findings.add('invalid-dataset', reason=one_line(error))
    classes = dataset.metainfo.get('classes')
    if isinstance(classes, str) or not classes:
        return findings.add('invalid-classes', classes=classes)
    checked = CheckedDataset(findings.dataset, source.splits, dataset.ann_file, tuple(classes))
    _check_evaluators(checked, cfg, findings)
    if maskless:
        findings.add('no-mask-loading')
    by_name = not isinstance(dataset, LVISV05Dataset)  # LVISV1Dataset too is one: label = position in the file
    content = _read(checked, by_name, usage, None if source.cfg.get('metainfo') else label_file, findings)
    if not content:
        return checked
    _check_filters(source, content, findings)
    if usage.evaluated_as_lvis:
        check_lvis_fields(content.images, content.categories, findings)
    paths = _image_paths(dataset, content, findings)
    _check_folder(dataset, [path for path, *_ in paths], findings)
    if images is not None:
        check_images(paths, loader, findings, images, workers, progress)
    return checked._replace(content=content)


def _check_evaluators(checked: CheckedDataset, cfg: Config, findings: Findings) -> None:
    for split, evaluator in evaluators(cfg, checked.splits):
        other = evaluator.get('ann_file')
        single = len(list(leaves(cfg[f'{split}_dataloader']['dataset']))) == 1
        if other and single and os.path.realpath(other) != os.path.realpath(checked.ann_file):
            setting = f'{split}_evaluator.ann_file'
            values = dict(setting=setting, path=other, ann_file=checked.ann_file)
            findings.add('evaluator-file-mismatch', [setting], **values)


def _read(
    checked: CheckedDataset, by_name: bool, usage: AnnotationUsage, label_file: str | None, findings: Findings
) -> Content | None:
    """Read and check the annotation file; None if that is impossible."""
    if not checked.ann_file:
        return findings.add('no-ann-file')
    try:
        annotations = read_annotations(checked.ann_file)
    except FileNotFoundError as error:
        return findings.add('missing-file', [checked.ann_file], explain(error))
    except OSError as error:
        return findings.add('unreadable-file', [checked.ann_file], path=checked.ann_file, reason=error.strerror)
    except ValidationError as error:
        return findings.add(error.code, [checked.ann_file], str(error))
    content = check_annotations(annotations, findings, set(checked.classes) if by_name else None, usage)
    if content.categories:
        names = [c['name'] for c in content.categories]
        compare_classes(checked.classes, names, by_name, findings, label_file)
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


def _image_paths(dataset: CocoDataset, content: Content, findings: Findings) -> list[tuple[str, float, float]]:
    """Path, height and width of each image, as the data set finds them in the annotation file without annotations."""
    named = [all(isinstance(r.get(key, ''), str) for key in ('file_name', 'coco_url')) for r in content.images]
    unnamed = [r['id'] for r, is_named in zip(content.images, named) if not is_named]
    findings.report('invalid-image-path', unnamed, len(named))
    images = [r for r, is_named in zip(content.images, named) if is_named]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        dataset.ann_file = str(Path(folder, 'images.json'))
        Path(dataset.ann_file).write_text(
            json.dumps(dict(images=images, annotations=[], categories=content.categories))
        )
        try:
            return [(r['img_path'], r['height'], r['width']) for r in dataset.load_data_list()]
        except Exception as error:
            reason = f'no {error} in data_prefix or "images"' if isinstance(error, KeyError) else one_line(error)
            findings.add('unknown-image-path', dataset=type(dataset).__name__, reason=reason)
            return []


def _check_folder(dataset: CocoDataset, paths: list[str], findings: Findings) -> None:
    """Report images outside the data set's folder: an annotation file should not choose which files are opened."""
    folder = (dataset.data_prefix or {}).get('img') or ''
    outside = [path for path in paths if _is_outside(path, folder)]
    findings.report('image-outside-folder', outside, len(paths), folder=folder or '.')


def _is_outside(path: str, folder: str) -> bool:
    if '://' in folder:
        return not path.startswith(folder) or '/../' in path
    if '://' in path:
        return True
    return bool(folder) and os.path.relpath(path, folder).split(os.sep)[0] == os.pardir

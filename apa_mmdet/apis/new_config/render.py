"""Writes the choices as a config file."""

import os
import textwrap
from typing import Any, NamedTuple

from .annotations import Source
from .choices import Choices, evaluates_masks
from .python_source import Expression, assignment
from .schedule_choices import Schedule
from .weights import Start

LISTED_CLASSES = 100  # with more, the names get a file of their own
COMMENT = 118  # columns of a comment, without its '# '
LOAD = dict(type='LoadImageFromFile')
READERS = dict(LVISV1Dataset='SelectiveLVISV1Dataset', LVISV05Dataset='SelectiveLVISV05Dataset')  # by names of classes
PACK = dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))


class Paths(NamedTuple):
    """The folder of a data set, and below it the annotation files and folders of images of both splits."""

    root: str
    train: str
    train_images: str
    val: str
    val_images: str


def common_paths(train: Source, val: Source) -> Paths:
    """The longest common folder of all files, and what is below it; absolute if one of the paths is."""
    paths = [os.path.normpath(path) for path in (train.path, train.folder, val.path, val.folder)]
    if any(map(os.path.isabs, paths)):
        paths = list(map(os.path.abspath, paths))
    folders = [os.path.dirname(path) if i in (0, 2) else path for i, path in enumerate(paths)]
    root = os.path.commonpath([folder or '.' for folder in folders]) or '.'
    below = ['' if path == '.' else path for path in (os.path.relpath(path, root) for path in paths)]
    return Paths(root, *below)


def render(train: Source, val: Source, choices: Choices, start: Start, title: list[str], classes_file: str) -> str:
    """The text of the config.

    Args:
        train, val, choices, start: what it says.
        title: lines of its first comment.
        classes_file: name of a text file beside it with a class in each line, read where there are many.
    """
    reasons, paths = choices.reasons, common_paths(train, val)
    root = Expression('data_root')
    many = len(choices.classes) > LISTED_CLASSES
    lines = [*_comment([*title, *reasons['loss']])]
    # the import after _base_: before it, MMEngine takes the file for one of its other kind of config
    lines += [f'_base_ = {choices.base!r}', *['import pathlib'] * many, '']
    lines += ['# Data', assignment('data_root', paths.root)]
    if many:
        read = f"pathlib.Path('{{{{ fileDirname }}}}/{classes_file}').read_text(encoding='utf-8')"
        lines.append(f'classes = tuple({read}.splitlines())')
    else:
        lines.append(assignment('classes', tuple(choices.classes)))
    train_file = _below(paths.train)
    lines += [f'train_annotations = {train_file}', f'val_annotations = {_below(paths.val)}', '']
    lines += [*_comment(reasons['images']), *_pipelines(choices, val)]
    names = dict(metainfo=dict(classes=Expression('classes')))
    for split, source, file, folder in (
        ('train', train, paths.train, paths.train_images),
        ('val', val, paths.val, paths.val_images),
    ):
        dataset: dict[str, Any] = dict(
            type=READERS.get(source.summary.dataset, source.summary.dataset),
            data_root=root,
            ann_file=file,
            data_prefix=dict(img=folder),
            **names,
        )
        # mmdet's own rule, but for small images, which it would skip
        kind = dict(filter_cfg=dict(filter_empty_gt=True, min_size=1)) if split == 'train' else dict(test_mode=True)
        lines.append(assignment(f'{split}_dataset', dict(dataset, **kind, pipeline=Expression(f'{split}_pipeline'))))
    lines += ['', *_comment(reasons['model']), assignment('model', _model(choices))]
    if start.load_from:
        lines.append(assignment('load_from', start.load_from))
    lines += ['', *_comment(reasons['batch']), *_loaders(choices, val)]
    lines += ['', *_comment(reasons['groups']), *_evaluators(choices, val)]
    lines += ['', *_comment(reasons['schedule']), *_schedule(choices.schedule)]
    return '\n'.join(lines) + '\n'


def _comment(sentences: list[str]) -> list[str]:
    return [f'# {line}' for text in sentences for line in textwrap.wrap(text, COMMENT, break_on_hyphens=False) or ['']]


def _below(path: str) -> str:
    return f'data_root + {"/" + path!r}'


def _pipelines(choices: Choices, val: Source) -> list[str]:
    types = dict(none='LoadAnnotations', all='LoadAnnotations', some='LoadPartialMaskAnnotations')
    load = dict(type=types[choices.masks], with_bbox=True, with_mask=choices.masks != 'none')
    train = [LOAD, load, *choices.size.train, dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')]
    load_val = dict(type='LoadAnnotations', with_bbox=True, with_mask=evaluates_masks(choices.masks, val))
    test = [LOAD, choices.size.test, load_val, PACK]
    return [assignment('train_pipeline', train), assignment('val_pipeline', test)]


def _model(choices: Choices) -> dict[str, Any]:
    roi = {**choices.model['roi_head']}
    bbox = roi['bbox_head'] = {**roi['bbox_head'], 'num_classes': Expression('len(classes)')}
    if 'loss_cls' in bbox:
        bbox['loss_cls'] = {**bbox['loss_cls'], 'num_classes': Expression('len(classes)')}
        if 'frequency_threshold' in bbox['loss_cls']:  # DropLoss
            bbox['loss_cls']['class_frequency'] = Expression('train_annotations')
    if roi.get('mask_head'):
        roi['mask_head'] = {**roi['mask_head'], 'num_classes': Expression('len(classes)')}
    model = dict(choices.model, roi_head=roi)
    if 'calibration' in model:
        of_training = dict(stats=Expression('train_annotations'), classes=Expression('classes'))
        model['calibration'] = {**model['calibration'], **of_training}
    return model


def _loaders(choices: Choices, val: Source) -> list[str]:
    dataset: Any = Expression('dict(_delete_=True, **train_dataset)')
    if choices.oversample:
        dataset = dict(
            _delete_=True,
            type='ClassBalancedDataset',
            oversample_thr=float(f'{choices.oversample:.3g}'),
            dataset=Expression('train_dataset'),
        )
    train = dict(batch_size=choices.batch.of_gpu, num_workers=choices.batch.workers, dataset=dataset)
    val_loader = dict(num_workers=choices.batch.workers, dataset=Expression('dict(_delete_=True, **val_dataset)'))
    return [
        assignment('train_dataloader', train),
        assignment('val_dataloader', val_loader),
        'test_dataloader = val_dataloader',
        f'auto_scale_lr = dict(base_batch_size={choices.batch.of_step})  # where batch_size changes: --auto-scale-lr',
    ]


def _evaluators(choices: Choices, val: Source) -> list[str]:
    evaluator: dict[str, Any] = dict(
        _delete_=True,
        type='FastLVISMetric' if val.summary.is_lvis else 'FastCocoMetric',
        ann_file=Expression('val_annotations'),
        metric=['bbox', 'segm'] if evaluates_masks(choices.masks, val) else 'bbox',
        **choices.metric,
    )
    if choices.groups is not None:
        evaluator['frequency_groups'] = dict(ann_file=Expression('train_annotations'), **choices.groups)
    return [assignment('val_evaluator', evaluator), 'test_evaluator = val_evaluator']


def _schedule(schedule: Schedule) -> list[str]:
    epochs = Expression('max_epochs')
    warm_up = dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=schedule.warm_up)
    if schedule.is_cosine:
        decay = dict(type='CosineAnnealingLR', convert_to_iter_based=True, T_max=epochs, eta_min_ratio=0.01)
    else:  # of the recipes: 16 and 22 of 24 epochs
        milestones = sorted({max(1, round(schedule.epochs * part)) for part in (2 / 3, 11 / 12)})
        decay = dict(type='MultiStepLR', by_epoch=True, milestones=milestones, gamma=0.1)
    interval = schedule.val_interval
    loop = dict(_delete_=True, type='ResumableEpochBasedTrainLoop', max_epochs=epochs, val_interval=interval)
    checkpoint = dict(interval=interval, by_epoch=True, max_keep_ckpts=3, save_best='auto')
    return [
        assignment('max_epochs', schedule.epochs),
        assignment('train_cfg', loop),
        assignment('param_scheduler', [warm_up, decay]),
        assignment('optim_wrapper', dict(optimizer=dict(lr=schedule.lr))),
        assignment('default_hooks', dict(checkpoint=checkpoint)),
        'log_processor = dict(by_epoch=True)',
    ]

"""Whether the data sets of a config can be trained on: files, images, categories and class names, before training."""

import contextlib
import io
import json
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmdet.datasets import CocoDataset, LVISV05Dataset
from mmengine.config import Config
from mmengine.registry import init_default_scope
from terminaltables import AsciiTable
from tqdm import tqdm

from apa_mmdet.datasets.class_statistics import load_class_frequency
from apa_mmdet.utils.config import evaluators, leaves, model_parts
from apa_mmdet.utils.errors import one_line
from apa_mmdet.utils.missing_data_hints import explain

from .annotations import Content, check_annotations, check_lvis_fields, is_number, read_annotations
from .findings import ERROR, WARNING, Finding, Notes, show
from .images import check_images
from .sources import Source, Use, find_sources, find_use, image_loader, lacks_masks, name_list, open_dataset

SPLITS = ('train', 'val', 'test')
SPELLINGS = {'speaker_(stero_equipment)': 'speaker_(stereo_equipment)'}  # LVIS's files: mmdet's classes
COLUMNS = ('data set', 'images', 'instances', 'classes', 'without instance', 'rare (1 to 10 images)')


class Checked(NamedTuple):
    """A data set that was looked through. ``classes`` are the config's; ``content`` is None if it could not be read."""

    name: str
    splits: list[str]
    ann_file: str
    classes: tuple[str, ...]
    content: Content | None = None

    def row(self) -> tuple:
        counts = self.content.counts
        return (
            self.name,
            len(self.content.images),
            self.content.instances,
            len(counts),
            sum(not n for n in counts.values()),
            self.content.rare,
        )


class Report(NamedTuple):
    """What a check found; ``str`` of it is what a person reads: a row of ``COLUMNS`` per data set, and the findings."""

    findings: list[Finding]
    rows: list[tuple]

    @property
    def errors(self) -> int:
        return sum(finding.severity == ERROR for finding in self.findings)

    def __str__(self) -> str:
        lines = [AsciiTable([COLUMNS, *self.rows]).table] if self.rows else []
        for severity in (ERROR, WARNING):
            lines += [str(finding) for finding in self.findings if finding.severity == severity]
        warnings = len(self.findings) - self.errors
        verdict = 'training can start'
        if self.errors:
            verdict = 'mend the errors before training'
        elif not self.rows:
            verdict = 'nothing was checked'
        elif any(finding.message.startswith('not checked') for finding in self.findings):
            verdict = 'training can start, as far as checked'
        return '\n'.join([*lines, f'{_number(self.errors, "error")}, {_number(warnings, "warning")}: {verdict}'])


def _number(count: int, noun: str) -> str:
    return f'{count or "no"} {noun}{"s" * (count != 1)}'


def check_config(
    cfg: Config, splits: Sequence[str] = SPLITS, images: bool | None = True, workers: int = 0, progress: bool = True
) -> Report:
    """Look through the data sets of a config, and compare them with its model and its evaluators.

    Args:
        cfg: a config whose data sets are CocoDataset, LVISV05Dataset, LVISV1Dataset, V3DetDataset or their like.
        splits: which of ``train``, ``val``, ``test``. A data set that several share is read once.
        images: decode every image; False only looks whether it is there, None not even that.
        workers: processes that do so, 0 for none beside this one.
        progress: show progress bars, on a terminal.
    """
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    sources = find_sources(cfg, splits)
    notes = Notes('config')
    if not sources:
        notes.error(f'no data set in {" or ".join(f"{split}_dataloader" for split in splits)}')
    findings, checked = notes.findings, []
    bar = tqdm(sources, unit='data set', disable=None if progress else True)
    for source in bar:
        notes = Notes(_name(source, sources))
        bar.set_description(notes.dataset)
        checked += filter(None, [_check_source(source, cfg, notes, images, workers, progress)])
        findings += notes.findings
    for name, check in (('train', _check_training_classes), ('model', _check_model)):
        notes = Notes(name)
        check(cfg, checked, notes)
        findings += notes.findings
    return Report(findings, [c.row() for c in checked if c.content])


def _name(source: Source, sources: list[Source]) -> str:
    name = ', '.join(source.splits)
    alike = sum(other.splits == source.splits for other in sources) > 1  # parts of a ConcatDataset
    return f'{name} ({source.cfg.get("ann_file")})' if alike else name


# ---------------------------------------------------------------- a data set


def _check_source(
    source: Source, cfg: Config, notes: Notes, images: bool | None, workers: int, progress: bool
) -> Checked | None:
    try:
        names, dataset = name_list(source), open_dataset(source)
        use, loader = find_use(source, cfg), image_loader(source)
        maskless = lacks_masks(source, cfg)
    except NotImplementedError as error:
        return notes.warning(str(error))
    except FileNotFoundError as error:
        return notes.error(explain(error))
    except ValueError as error:
        return notes.error(str(error))
    except Exception as error:  # data sets and transforms may be the user's own
        return notes.error(f'the data set or its pipeline cannot be built ({one_line(error)})')
    classes = dataset.metainfo.get('classes')
    if isinstance(classes, str) or not classes:
        return notes.error(
            f'the classes of the data set are {classes!r}; give metainfo=dict(classes=(…, )), with a '
            'comma behind a single one'
        )
    checked = Checked(notes.dataset, source.splits, dataset.ann_file, tuple(classes))
    _check_evaluators(checked, cfg, notes)
    if maskless:
        notes.error(
            'the model has a mask_head, but the training pipeline loads no masks; give its LoadAnnotations '
            'with_mask=True, or take a model for boxes'
        )
    by_name = not isinstance(dataset, LVISV05Dataset)  # LVISV1Dataset too is one: label = position in the file
    content = _read(checked, by_name, use, None if source.cfg.get('metainfo') else names, notes)
    if not content:
        return checked
    _check_filters(source, content, notes)
    if use.evaluated_as_lvis:
        check_lvis_fields(content, notes)
    paths = _image_paths(dataset, content, notes)
    _check_folder(dataset, [path for path, *_ in paths], notes)
    if images is not None:
        check_images(paths, loader, notes, images, workers, progress)
    return checked._replace(content=content)


def _check_evaluators(checked: Checked, cfg: Config, notes: Notes) -> None:
    for split, evaluator in evaluators(cfg, checked.splits):
        other = evaluator.get('ann_file')
        alone = len(list(leaves(cfg[f'{split}_dataloader']['dataset']))) == 1
        if other and alone and os.path.realpath(other) != os.path.realpath(checked.ann_file):
            notes.error(
                f'{split}_evaluator.ann_file is {other}, but the data set reads {checked.ann_file}; make them the same'
            )


def _read(checked: Checked, by_name: bool, use: Use, names: str | None, notes: Notes) -> Content | None:
    """Read and check the annotation file; None if that is impossible."""
    if not checked.ann_file:
        return notes.error('the data set has no ann_file; name its annotation file')
    try:
        annotations = read_annotations(checked.ann_file)
    except FileNotFoundError as error:
        return notes.error(explain(error))
    except OSError as error:
        return notes.error(f'{checked.ann_file}: {error.strerror}')
    except ValueError as error:
        return notes.error(str(error))
    content = check_annotations(annotations, notes, set(checked.classes) if by_name else None, use)
    if content.categories:
        _compare_classes(checked.classes, [c['name'] for c in content.categories], by_name, notes, names)
    return content


def _compare_classes(
    classes: Sequence[str], names: Sequence[str], by_name: bool, notes: Notes, name_list: str | None = None
) -> None:
    """The config's classes and the file's categories should be the same ones, in the same order.

    ``name_list`` is the file that the classes come from, if they do.
    """
    classes, names = [SPELLINGS.get(c, c) for c in classes], [SPELLINGS.get(n, n) for n in names]
    known, wanted = set(names), set(classes)
    shared, common = [c for c in classes if c in known], [n for n in names if n in wanted]
    give = 'give metainfo=dict(classes=…)'
    if name_list:
        give = (
            f'{name_list} has {len(classes)} names, the annotation file {len(names)} categories; get the list that '
            'belongs to it'
        )
    doubles = [[name for name, count in Counter(them).items() if count > 1] for them in (classes, names)]
    if shared == common:  # then labels are right all the same
        notes.some(
            WARNING, 'names of categories used more than once', doubles[1], len(names), 'results do not tell them apart'
        )
    else:
        notes.some(ERROR, 'classes of the config named more than once', doubles[0], len(classes), 'give each its own')
        notes.some(ERROR, 'names of categories used more than once', doubles[1], len(names), 'give each its own')
    lacking = [c for c in classes if c not in known]
    has = f'it has {", ".join(map(show, names[:3]))}{", …" * (len(names) > 3)}'
    notes.some(ERROR, 'classes of the config that the annotation file lacks', lacking, len(classes), f'{has}; {give}')
    then = 'their instances are left out' if by_name else 'this data set numbers every category of the file'
    if name_list or not by_name:
        then += f'; {give}'
    notes.some(
        WARNING if by_name else ERROR,
        "categories of the annotation file that the config's classes lack",
        [n for n in names if n not in wanted],
        len(names),
        then,
    )
    if shared != common and not lacking and not any(doubles):
        c, n = next((c, n) for c, n in zip(shared, common) if c != n)
        notes.error(
            f"the config's classes have another order than the file's categories, from {show(c)} (config) and "
            f'{show(n)} (file) on, and predictions would get wrong names; take the order of the file'
        )


def _check_filters(source: Source, content: Content, notes: Notes) -> None:
    """Look whether training keeps an image, by the rule of ``CocoDataset.filter_data``."""
    for split, use in source.uses:
        rule = use.get('filter_cfg')
        if split == 'train' and rule and content.labelled.any() and not use.get('test_mode'):
            large = np.array([min(r['width'], r['height']) >= rule.get('min_size', 0) for r in content.images], bool)
            kept = large & (content.labelled | (not rule.get('filter_empty_gt', False)))
            if not kept.any():
                notes.error(f'filter_cfg={dict(rule)} keeps none of {len(kept)} images; loosen it')


def _image_paths(dataset: CocoDataset, content: Content, notes: Notes) -> list[tuple[str, float, float]]:
    """Path, height and width of each image, as the data set finds them in the annotation file without annotations."""
    named = [all(isinstance(r.get(key, ''), str) for key in ('file_name', 'coco_url')) for r in content.images]
    notes.some(
        ERROR,
        'images whose "file_name" or "coco_url" is no text',
        [r['id'] for r, is_named in zip(content.images, named) if not is_named],
        len(named),
        'correct it',
    )
    images = [r for r, is_named in zip(content.images, named) if is_named]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        dataset.ann_file = str(Path(folder, 'images.json'))
        Path(dataset.ann_file).write_text(
            json.dumps(dict(images=images, annotations=[], categories=content.categories))
        )
        try:
            return [(r['img_path'], r['height'], r['width']) for r in dataset.load_data_list()]
        except Exception as error:
            what = f'no {error} in data_prefix or "images"' if isinstance(error, KeyError) else one_line(error)
            notes.error(f'{type(dataset).__name__} cannot tell where its images are: {what}')
            return []


def _check_folder(dataset: CocoDataset, paths: list[str], notes: Notes) -> None:
    """An annotation file from elsewhere should not say which other files to open."""
    folder = (dataset.data_prefix or {}).get('img') or ''
    outside = [path for path in paths if _is_outside(path, folder)]
    notes.some(
        WARNING,
        'images outside the folder of the data set',
        outside,
        len(paths),
        f'"file_name" or "coco_url" leads out of {folder or "."}; training opens them all the same',
    )


def _is_outside(path: str, folder: str) -> bool:
    if '://' in folder:
        return not path.startswith(folder) or '/../' in path
    if '://' in path:
        return True
    return bool(folder) and os.path.relpath(path, folder).split(os.sep)[0] == os.pardir


# ---------------------------------------------------------------- all data sets together


def _check_training_classes(cfg: Config, checked: list[Checked], notes: Notes) -> None:
    training, total = [c for c in checked if 'train' in c.splits], Counter()
    if all(c.content for c in training):
        for c in training:
            total.update(c.content.counts)  # keeps the zeros
        if total and not sum(total.values()):
            return notes.error(
                'not one instance to train on: all are left out, crowds, or of other classes; boxes and '
                'areas must be in pixels'
            )
        absent = [name for name, count in total.items() if not count]
        notes.some(WARNING, 'classes without a training instance', absent, len(total), 'they will not be learnt')


def _check_model(cfg: Config, checked: list[Checked], notes: Notes) -> None:
    """Compare the numbers of classes: the data sets' with each other, and with the model's heads and losses."""
    trained = any('train' in c.splits for c in checked)
    names: dict[int, str] = {}
    for c in checked:
        names.setdefault(len(c.classes), c.name)
    if len(names) > 1:
        notes.error(
            'the data sets differ in their number of classes: '
            + ', '.join(f'{name} has {number}' for number, name in names.items())
        )
    for path, part in model_parts(cfg.get('model') or {}) if checked else ():
        number, name = next(iter(names.items()))
        found = part.get('num_classes') if part.get('type') != 'GroundingDINOHead' else None  # there, words of a text
        if isinstance(found, int) and found != number and not part.get('class_agnostic'):
            notes.error(f'{path}.num_classes is {found}, but {name} has {number} classes; make them the same')
        if trained and isinstance(part.get('class_frequency'), str):  # only losses read it
            _check_frequencies(path, part['class_frequency'], part.get('num_classes', number), checked, notes)


def _check_frequencies(path: str, file: str, number: int, checked: list[Checked], notes: Notes) -> None:
    read = [c for c in checked if os.path.realpath(c.ann_file) == os.path.realpath(file)]
    if read and not (read[0].content and read[0].content.categories):
        return  # reported already
    if read:
        content = read[0].content
        counts = [(c['name'], c.get('image_count', 0)) for c in content.categories]
        for what, wrong in (
            ('is no number of images', [(n, k) for n, k in counts if not is_number(k) or k < 0]),
            (
                f'is above the number of annotated images, {content.annotated}',
                [(n, k) for n, k in counts if is_number(k) and k > content.annotated],
            ),
        ):
            notes.some(
                ERROR,
                f'{path}.class_frequency: categories whose "image_count" {what}',
                [f'{show(n)} ({k!r:.50})' for n, k in wrong],
                len(counts),
                f'correct {file}',
            )
    try:
        found = len(read[0].content.categories if read else load_class_frequency(file))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return notes.error(f'{path}.class_frequency: {error}')
    if found != number:
        notes.error(
            f'{path}.class_frequency: {file} has {found} classes, but the loss has {number}; give the file '
            'of this data set'
        )

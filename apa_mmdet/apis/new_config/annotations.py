"""Reads the annotations for a new config and finds their images; whatever is wrong with them is a line."""

import os
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from apa_mmdet.datasets.annotation_summary import AnnotationSummary, summarize_annotations
from apa_mmdet.datasets.annotations.reading import read_annotations
from apa_mmdet.utils.errors import CodedError
from apa_mmdet.utils.finding_codes import ERROR
from apa_mmdet.utils.findings import Findings, ValidationError, show

SAMPLE = 20  # images by which a folder is found; the validation looks at all of them
MAX_FOLDERS = 1000  # that are tried
# codes of BadData → what is wrong
CODES = {
    'records': 'records of an annotation file cannot be used',
    'no-validation': 'no validation data are named',
    'images-not-found': 'the images are in no likely folder',
    'other-categories': 'the validation has other categories than the training, or in another order',
    'findings': 'the config would be refused with these data',
}


class BadData(CodedError):
    """Annotations for which no config can be written; the code is one of :data:`CODES`. A line for each fault."""


class Source(NamedTuple):
    """An annotation file, the folder of its images, and what is in it."""

    path: str
    folder: str
    summary: AnnotationSummary


def read_source(path: str, folder: str | None, split: str, content: Any = None) -> Source:
    """Read an annotation file, or take its ``content``, and find the ``folder`` of its images.

    Raises:
        FileNotFoundError: if there is no such file.
        ValidationError: if it cannot be read.
        BadData: ``records`` or ``images-not-found``.
    """
    findings = Findings(f'{split} ({path})')
    content = read_annotations(path) if content is None else content
    if not isinstance(content, dict):
        raise ValidationError.of('not-annotations', path=path, type=type(content).__name__)
    summary = summarize_annotations(content, findings)
    if summary:
        doubles = [name for name, count in Counter(summary.names).items() if count > 1]
        findings.report('duplicate-category', doubles, len(summary.names))
        findings.report('invalid-image-path', [p for p in summary.paths if not _is_text(p)], summary.images)
    errors = [str(finding) for finding in findings if finding.severity == ERROR]
    if errors or not summary:
        raise BadData('records', '\n'.join(errors))
    return Source(path, _image_folder(path, summary.paths, folder), summary)


def _is_text(path: Any) -> bool:
    return isinstance(path, str) and bool(path)


def _image_folder(ann_file: str, paths: list[str], given: str | None) -> str:
    """The folder in which most of the first images are.

    It is looked for beside the annotations, in the folder above, and in the folders of these two.
    """
    sample = paths[:: max(1, len(paths) // SAMPLE)][:SAMPLE]
    beside = os.path.dirname(ann_file) or '.'
    above = os.path.normpath(os.path.join(beside, os.pardir))
    folders = [given] if given else [beside, above, *_folders_of(beside), *_folders_of(above)]
    found = [sum(os.path.isfile(os.path.join(folder, path)) for path in sample) for folder in folders]
    if max(found, default=0):
        return folders[found.index(max(found))]
    advice = 'name the folder with --images'
    if any('\\' in path for path in sample):
        advice = 'its separators are those of Windows: write / in "file_name"'
    elif os.path.isabs(sample[0]):
        advice = 'there is no such file: correct "file_name"'
    elif given:
        advice = 'a "file_name" begins below that folder'
    places = given or f'{beside} or {above}, nor in a folder of these'
    raise BadData('images-not-found', f'{ann_file}: image {show(sample[0])} is not in {places}; {advice}')


def _folders_of(folder: str) -> list[str]:
    try:
        entries = islice((entry for entry in Path(folder).iterdir() if entry.is_dir()), MAX_FOLDERS)
        return sorted(os.path.join(folder, entry.name) for entry in entries)
    except OSError:  # one that may not be listed holds no images that training could read
        return []


def check_categories(train: Source, val: Source, classes: list[str]) -> None:
    """Check that labels mean the same in both files.

    Raises:
        BadData: ``other-categories``.
    """
    theirs = [name for name in val.summary.names if name in set(classes)]
    missing = [name for name in classes if name not in set(theirs)]
    if missing:
        what = f'{len(missing)} of {len(classes)} classes, e.g. {show(missing[0])}, are not among its categories'
    elif theirs != classes:
        ours, other = next((a, b) for a, b in zip(classes, theirs) if a != b)
        what = f'its categories are in another order, {show(other)} where the training has {show(ours)}'
    elif (train.summary.is_lvis or val.summary.is_lvis) and val.summary.names != train.summary.names:
        what = 'its categories are not those of the training, of which the LVIS form numbers all'
    else:
        return
    raise BadData('other-categories', f'{val.path}: {what}; give it the "categories" of {train.path}, ids too')

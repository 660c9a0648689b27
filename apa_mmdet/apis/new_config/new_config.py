"""Writes a config for data of one's own: reads the annotations, chooses, explains each choice in a comment."""

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

from apa_mmdet.apis.launch_checks.launch import Launch
from apa_mmdet.apis.launch_checks.validate_launch import check_launch
from apa_mmdet.checkpoint.pretrained import checked_pretrained
from apa_mmdet.datasets.validation.validate_config import validate_config
from apa_mmdet.utils.config import build_detector, load_config
from apa_mmdet.utils.errors import CodedError
from apa_mmdet.utils.fileio import atomic_write, refuse_existing
from apa_mmdet.utils.finding_codes import ERROR
from apa_mmdet.utils.findings import Finding

from .annotations import BadData, Source, check_categories
from .choices import Choices, choose
from .render import LISTED_CLASSES, render
from .schedule_choices import Machine
from .sources import read_both
from .weights import Start, start_from


class NewConfig(NamedTuple):
    """A written config: its files, what was chosen, warnings about the data, and the command that trains."""

    files: list[str]
    choices: Choices
    warnings: list[Finding]
    command: str

    def __str__(self) -> str:
        reasons = (sentence for sentences in self.choices.reasons.values() for sentence in sentences)
        return '\n'.join([*map(str, self.warnings), *reasons, f'written: {", ".join(self.files)}', self.command])


def this_machine(device: str | None = None, gpus: int | None = None, memory: float | None = None) -> Machine:
    """The machine for which a config is written; what is None is that of this one, a GPU of 24 GiB if it has none."""
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = device or ('gpu' if here else 'cpu')
    if memory is None:
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30 if here else 24
    return Machine(device, (gpus or here or 1) if device == 'gpu' else 1, round(memory), os.cpu_count() or 1)


def new_config(
    train: str,
    out: str,
    val: str | None = None,
    split: float | None = None,
    images: str | None = None,
    val_images: str | None = None,
    machine: Machine | None = None,
    weights: str | None = None,
    boxes: bool = False,
    epochs: int | None = None,
    force: bool = False,
) -> NewConfig:
    """Write a config that trains on annotations in COCO's or LVIS's form.

    The config is loaded, its data are validated and its checks run as before a training, but for the content of
    images; it is written only if nothing is wrong.

    Args:
        train: the annotation file of the training.
        out: the config to write, ``….py``. The names of more than a hundred classes are written beside it.
        val: the annotation file of the validation; the same as ``train`` evaluates the images of the training.
        split: instead of ``val`` the share of the images to hold out for it, by two files beside ``train``,
            ``…_train.json`` and ``…_val.json``; see :func:`~apa_mmdet.datasets.split.split_annotations`.
        images, val_images: folders to which the images' ``file_name`` is relative, where they are not found by
            themselves; ``val_images`` is ``images`` by default.
        machine: for which to write it; default :func:`this_machine`.
        weights: checkpoint of a backbone or of a detector; None trains from random weights.
        boxes: ignore masks.
        epochs: instead of those chosen.
        force: overwrite files.

    Raises:
        FileNotFoundError, FileExistsError, OSError: if a file is missing, is there already, or cannot be written.
        ValidationError, BadData: if something is wrong with the annotations.
        BadCheckpoint, WrongWeights, NotConvertible: if something is wrong with the weights.
        CodedError: ``bad-name``, if ``out`` is not the name of a config; ``nothing-to-hold-out`` with ``split``.
    """
    if not out.endswith('.py') or '.' in Path(out).stem:
        raise CodedError('bad-name', f'{out}: a config is called NAME.py, without further dots')
    classes_file = f'{Path(out).stem}_classes.txt'
    for path in (Path(out), Path(out).with_name(classes_file)):
        refuse_existing(path, force)
    start = start_from(weights)
    training, validation, notes = read_both(train, val, split, images, val_images, force)
    machine = machine or this_machine()
    choices = choose(training, validation, machine, start, boxes, epochs)
    check_categories(training, validation, choices.classes)
    command = f'python tools/train.py {out}' if machine.gpus == 1 else f'tools/dist_train.sh {out} {machine.gpus}'
    title = [*_title(training, validation, choices), *notes]
    title.append(f'Next: python tools/check_dataset.py {out} opens every image; {command} trains.')
    texts = {Path(out).name: render(training, validation, choices, start, title, classes_file)}
    if len(choices.classes) > LISTED_CLASSES:
        texts[classes_file] = ''.join(f'{name}\n' for name in choices.classes)
    skipped = {*training.summary.names} - {*choices.classes}  # as a comment says
    findings = _check(texts, out, choices, start)
    warnings = [f for f in findings if f.code != 'extra-category' or not skipped.issuperset(f.ids)]
    for name, text in texts.items():
        atomic_write(Path(out).with_name(name), text.encode())
    return NewConfig([str(Path(out).with_name(name)) for name in texts], choices, warnings, command)


def _title(train: Source, val: Source, choices: Choices) -> list[str]:
    summary = train.summary
    masks = dict(none='boxes', some='boxes and some masks', all='boxes and masks')[choices.masks]
    title = [
        f'Written by tools/new_config.py from {train.path}: {summary.images} images, {summary.instances.sum()} '
        f'instances of {len(choices.classes)} classes, {masks}; validation: {val.path}, {val.summary.images} images.'
    ]
    if summary.annotated < summary.images:
        title.append(f'{summary.images - summary.annotated} training images without an object are skipped.')
    return title


def _check(texts: dict[str, str], out: str, choices: Choices, start: Start) -> list[Finding]:
    """Load the config and check it as before a training; returns the warnings.

    Raises:
        BadData: ``findings``, if a training would be refused.
        WrongWeights: if the weights do not fit the backbone.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, text in texts.items():
            Path(folder, name).write_text(text, encoding='utf-8')
        path = str(Path(folder, Path(out).name))
        cfg = load_config(path)
        if tuple(cfg.classes) != tuple(choices.classes):
            odd = next(ours for ours, theirs in zip(choices.classes, [*cfg.classes, None]) if ours != theirs)
            raise BadData('findings', f'the class name {odd!r} cannot be written into a config; rename it')
        findings = [*check_launch(Launch('train.py', cfg)), *validate_config(cfg, images=False).findings]
        errors = [str(finding) for finding in findings if finding.severity == ERROR]
        if errors:
            raise BadData('findings', '\n'.join(errors))
        if start.kind == 'backbone':
            with checked_pretrained(build_detector(cfg, out, 'backbone')):
                pass
    return findings

"""Reads the training and the validation data of a new config, or splits one file into both."""

import json
import os
from pathlib import Path

from apa_mmdet.datasets.annotations.reading import read_json
from apa_mmdet.datasets.split import split_annotations
from apa_mmdet.utils.fileio import atomic_write, refuse_existing

from .annotations import BadData, Source, read_source


def read_both(
    train: str, val: str | None, split: float | None, images: str | None, val_images: str | None, force: bool
) -> tuple[Source, Source, list[str]]:
    """The training and the validation data, and sentences about them.

    Args and errors as of :func:`~.new_config.new_config`.
    """
    if split is not None:
        return _split(train, split, images, force)
    if val is None:
        raise BadData(
            'no-validation',
            'no validation data: give --val FILE, or hold out a fifth of the images by --split 0.2; --val '
            f'{train} evaluates the images of the training, where AP tells nothing about others',
        )
    training = read_source(train, images, 'train')
    if os.path.realpath(val) == os.path.realpath(train):
        return training, training, ['Evaluated on the images of the training: AP tells nothing about others.']
    return training, read_source(val, val_images or images, 'val'), []


def _split(path: str, share: float, images: str | None, force: bool) -> tuple[Source, Source, list[str]]:
    content = read_json(path)  # with all that is in it, to write it again
    whole = read_source(path, images, 'train', content)  # or broken records would end the split
    split = split_annotations(content, share, path)
    parts = []
    for name, part in (('train', split.train), ('val', split.val)):
        target = Path(path).with_name(f'{Path(path).stem}_{name}.json')
        text = json.dumps(part).encode()
        if not (target.is_file() and target.read_bytes() == text):
            refuse_existing(target, force)
            atomic_write(target, text)
        parts.append(read_source(str(target), whole.folder, name, part))
    held_out = f'{len(split.val["images"])} of {len(content["images"])} images are held out for the validation.'
    lost = split.only_trained
    if lost:
        held_out += f' {len(lost)} classes are in no image of it, e.g. {lost[0]}: too few images.'
    return parts[0], parts[1], [held_out]

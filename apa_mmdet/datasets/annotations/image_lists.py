"""Reads lists of images for classification, a line ``path label`` for each, as MMPretrain's CustomDataset does."""

from typing import NamedTuple

import numpy as np

from apa_mmdet.utils.findings import ValidationError, brief

from .encodings import guess_encoding


class ImageList(NamedTuple):
    paths: list[str]
    labels: np.ndarray


def read_image_list(path: str, num_classes: int | None = None) -> ImageList:
    """Reads a list as MMPretrain does: the label is what follows the last space of a line.

    Args:
        path: of the list.
        num_classes: if given, labels have to be below.

    Raises:
        OSError: if it cannot be read.
        ValidationError: ``empty-file``, ``not-utf8``, ``invalid-list-line`` or ``label-outside-list``; it names the
            first line that is wrong.
    """
    with open(path, 'rb') as file:
        data = file.read()
    try:
        lines = data.decode('utf-8').splitlines()
    except UnicodeDecodeError:
        raise ValidationError.of('not-utf8', path=path, encoding=guess_encoding(data)) from None
    if not any(line.strip() for line in lines):
        raise ValidationError.of('empty-file', path=path)
    parts = [line.strip().rpartition(' ') for line in lines]
    for i, (name, _, label) in enumerate(parts, 1):
        if not (name and label.isascii() and label.isdigit()):
            raise ValidationError.of('invalid-list-line', [i], path=path, line=i, text=brief(lines[i - 1]))
    labels = np.array([int(label) for *_, label in parts], np.int64)
    if num_classes is not None and (labels >= num_classes).any():
        i = int(np.flatnonzero(labels >= num_classes)[0])
        raise ValidationError.of(
            'label-outside-list', [i + 1], path=path, line=i + 1, label=labels[i], last=num_classes - 1
        )
    return ImageList([name for name, *_ in parts], labels)

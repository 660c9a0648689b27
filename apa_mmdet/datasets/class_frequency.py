"""Image frequency of each class: the fraction of the annotated images that show it."""

import os
from collections.abc import Sequence
from pathlib import Path

from .annotations.class_frequencies import check_frequencies, class_frequencies
from .class_statistics import read_class_statistics

__all__ = ['check_frequencies', 'load_class_frequency']


def load_class_frequency(path: str | os.PathLike, classes: Sequence[str] | None = None) -> list[float]:
    """Read the class frequencies of ``classes``, in their order, from one of three types of JSON file.

    1. A list of frequencies, in order of the labels.
    2. ``{"n_images_annotated": n, "categories": [{"id": …, "name": …, "image_count": …}, …]}``, as
       ``configs/_base_/datasets/lvis_v1_class_frequency.json``, or what ``tools/class_statistics.py`` writes.
    3. An annotation file of COCO, LVIS or V3Det, measured once by :func:`~.class_statistics.read_class_statistics`,
       which caches the result, itself of the second type. ``image_count`` in the file is not read: in LVIS v1 train,
       which has no crowds, it is what is counted.

    Categories are found by name, so that the file may have more of them, and in another order; without ``classes``, and
    in a list or a file without names, they are taken as they come: all, in the file's order.

    frequency = image_count / annotated images. A class has the images with an instance of it that is not a crowd;
    annotated are those with any annotation, in LVIS v1 train 99,388 of 100,170.

    Raises:
        FileNotFoundError: if there is no such file.
        ValidationError: if it is not JSON or lacks what is needed; it names the file, the record and the key, or the
            classes that the file lacks.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f'{path}: no such file of class frequencies, which DropLoss needs for training (not for inference); give '
            'the path of the training annotations, or of a JSON list of the image frequencies'
        )
    origin = str(path)
    return read_class_statistics(path, lambda content: class_frequencies(content, origin)).of(classes, origin)

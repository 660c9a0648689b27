"""Image frequency of each class: the fraction of the annotated images that show it."""

import os
from collections.abc import Sequence
from pathlib import Path

from .kept_beside import kept_beside
from .validation.class_frequencies import check_frequencies, class_frequencies, count_images

__all__ = ['check_frequencies', 'load_class_frequency']


VERSION = 2  # of the cache; the first had no names


def load_class_frequency(path: str | os.PathLike, classes: Sequence[str] | None = None) -> list[float]:
    """Read the class frequencies of ``classes``, in their order, from one of three types of JSON file.

    1. A list of frequencies, in order of the labels.
    2. ``{"n_images_annotated": n, "categories": [{"id": …, "name": …, "image_count": …}, …]}``, as
       ``configs/_base_/datasets/lvis_v1_class_frequency.json``.
    3. An annotation file of LVIS (``images``, ``annotations``, ``categories`` with ``image_count``), or of COCO, whose
       categories have no ``image_count``: the images are counted. The annotated images are those with at least one
       annotation, in LVIS v1 train 99,388 of 100,170.

    Categories are found by name, so that the file may have more of them, and in another order; without ``classes``, and
    in a list or a file without names, they are taken as they come: all, in the file's order.

    frequency = image_count / annotated images. Of the third type, which may take a gigabyte, the result is cached
    beside the file as ``<stem>.class_frequency.json``, itself of the second type, and used again as long as size and
    modification time of the source are the same. A folder that cannot be written costs a line in the log.

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
    return kept_beside(
        path,
        '.class_frequency.json',
        VERSION,
        lambda content: count_images(content, origin),
        lambda content: class_frequencies(content, origin),
        f'class frequencies of {path} are counted',
    ).of(classes, origin)

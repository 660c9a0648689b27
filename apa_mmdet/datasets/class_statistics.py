"""Image frequency of each class: the fraction of the annotated images that show it."""

import json
import os
from pathlib import Path

from mmengine.logging import MMLogger

from apa_mmdet.utils.fileio import atomic_write

from .validation.class_frequencies import check_frequencies, class_frequencies, count_images, is_annotation_file
from .validation.reading import read_json

__all__ = ['check_frequencies', 'load_class_frequency']

CACHE_SUFFIX = '.class_frequency.json'


def load_class_frequency(path: str | os.PathLike) -> list[float]:
    """Read class frequencies, in the order of the file's categories, from one of three types of JSON file.

    mmdet's data sets number the labels in that order.

    1. A list of frequencies, in order of the labels.
    2. ``{"n_images_annotated": n, "categories": [{"id": …, "image_count": …}, …]}``, as
       ``configs/_base_/datasets/lvis_v1_class_frequency.json``.
    3. An annotation file of LVIS (``images``, ``annotations``, ``categories`` with ``image_count``), or of COCO, whose
       categories have no ``image_count``: the images are counted. The annotated images are those with at least one
       annotation, in LVIS v1 train 99,388 of 100,170.

    frequency = image_count / annotated images. Of the third type, which may take a gigabyte, the result is cached
    beside the file as ``<stem>.class_frequency.json``, itself of the second type, and used again as long as size and
    modification time of the source are the same. A folder that cannot be written costs a line in the log.

    Raises:
        FileNotFoundError: if there is no such file.
        ValidationError: if it is not JSON or lacks what is needed; it names the file, the record and the key.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f'{path}: no such file of class frequencies, which DropLoss needs for training (not '
            'for inference); give the path of the training annotations, or of a JSON list of the '
            'image frequencies'
        )
    cached = _read_cache(path)
    if cached is not None:
        return cached
    state, origin = _state(path), str(path)  # before reading: another version may arrive meanwhile
    content = read_json(path)
    if not is_annotation_file(content):
        return class_frequencies(content, origin)
    counts = count_images(content, origin)
    frequencies = class_frequencies(counts, origin)
    _write_cache(dict(state, **counts), path)
    return frequencies


def _cache_of(path: Path) -> Path:
    return path.with_name(path.stem + CACHE_SUFFIX)


def _state(path: Path) -> dict:
    stat = path.stat()
    return dict(source=path.name, source_size=stat.st_size, source_mtime_ns=stat.st_mtime_ns)


def _read_cache(path: Path) -> list[float] | None:
    """The cached frequencies; None if there are none, they are damaged, or the source has changed."""
    try:
        cached = json.loads(_cache_of(path).read_bytes())
        fresh = all(cached[key] == value for key, value in _state(path).items())
        return class_frequencies(cached, str(path)) if fresh else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _write_cache(content: dict, path: Path) -> None:
    cache = _cache_of(path)
    try:
        atomic_write(cache, json.dumps(content).encode())  # several processes may do so together
    except OSError as error:
        MMLogger.get_current_instance().warning(
            f'class frequencies of {path} are counted again in each run: {cache} cannot be written ({error})'
        )

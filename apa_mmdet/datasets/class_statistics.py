"""Image frequency of each class: the fraction of the annotated images that show it."""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger

CACHE_SUFFIX = '.class_frequency.json'


def load_class_frequency(path: str | os.PathLike) -> list[float]:
    """Read class frequencies, in the order of the file's categories, from one of three kinds of JSON file.

    That order is the one in which mmdet's data sets number the labels.

    1. A list of frequencies, in order of the labels.
    2. ``{"n_images_annotated": n, "categories": [{"id": …, "image_count": …}, …]}``, as
       ``configs/_base_/datasets/lvis_v1_class_frequency.json``.
    3. An annotation file of LVIS (``images``, ``annotations``, ``categories`` with ``image_count``), or of COCO, whose
       categories have no ``image_count``: the images are counted. The annotated images are those with at least one
       annotation, in LVIS v1 train 99,388 of 100,170.

    frequency = image_count / annotated images. Of the third kind, which may take a gigabyte, the result is kept beside
    the file as ``<stem>.class_frequency.json``, itself of the second kind, and used again as long as size and
    modification time of the source are the same. A folder that cannot be written costs a line in the log.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no JSON or lacks what is needed; the line names the file and what is missing.
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
    state = _state(path)  # before reading: another version may arrive meanwhile
    content = _read_json(path)
    if isinstance(content, list):
        return check_frequencies(content, str(path))
    if not isinstance(content, dict) or 'n_images_annotated' in content:
        return _frequencies(content, path)
    counts = _count_images(content, path)
    frequencies = _frequencies(counts, path)
    _write_cache(dict(state, **counts), path)
    return frequencies


def check_frequencies(frequencies: Sequence[float], origin: str) -> list[float]:
    """Hand back a list of floats; ValueError unless each is a number in [0, 1]. ``origin`` names them in the error."""
    for index, value in enumerate(frequencies):
        if isinstance(value, (bool, str)) or not hasattr(value, '__float__') or not 0 <= value <= 1:
            raise ValueError(
                f'{origin}: class frequencies are fractions of the images, in [0, 1]; number {index} is {value!r}'
            )
    return [float(value) for value in frequencies]


def _frequencies(content: dict, path: Path) -> list[float]:
    """Frequencies of the second kind of file."""
    if not isinstance(content, dict):
        raise ValueError(f'{path}: expected a JSON list of frequencies or an object, got {type(content).__name__}')
    n_images = content['n_images_annotated']
    if not _is_count(n_images) or not n_images:
        raise ValueError(f'{path}: n_images_annotated must be a positive number, got {n_images!r}')
    return check_frequencies([c['image_count'] / n_images for c in _categories(content, path)], str(path))


def _categories(content: dict, path: Path, needed: Sequence[str] = ('id', 'image_count')) -> list[dict]:
    categories = content.get('categories')
    if not isinstance(categories, list) or not categories:
        raise ValueError(f'{path}: "categories" is missing or empty, so there are no class frequencies in it')
    for category in categories:
        missing = [key for key in needed if not isinstance(category, dict) or key not in category]
        if missing:
            raise ValueError(f'{path}: a category lacks "{missing[0]}": {category!r:.200}')
        if not _is_count(category.get('image_count', 0)):
            raise ValueError(
                f'{path}: the "image_count" of the category with the id {category.get("id")!r} is '
                f'{category["image_count"]!r:.50}, no number of images'
            )
    return categories


def _is_count(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e15  # NaN is not


def _count_images(content: dict, path: Path) -> dict:
    """The second kind of file out of the third."""
    if not isinstance(content.get('annotations'), list) or not content['annotations']:
        raise ValueError(f'{path}: neither "n_images_annotated" nor "annotations" to count the annotated images from')
    pairs = set()
    for annotation in content['annotations']:
        try:
            pairs.add((annotation['category_id'], annotation['image_id']))
        except (KeyError, TypeError):  # a list has no keys, and is no key
            raise ValueError(
                f'{path}: an annotation without ids of its category and image: {annotation!r:.200}; '
                'tools/check_dataset.py finds all of them'
            ) from None
    seen = Counter(category for category, _ in pairs)
    try:
        counts = [
            dict(id=c['id'], image_count=c.get('image_count', seen[c['id']]))
            for c in _categories(content, path, needed=['id'])
        ]
    except TypeError:
        raise ValueError(f'{path}: the id of a category is no number; tools/check_dataset.py finds it') from None
    return dict(n_images_annotated=len({image for _, image in pairs}), categories=counts)


def _read_json(path: Path) -> dict | list:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f'{path}: not a JSON file ({error})') from None
    except RecursionError:
        raise ValueError(f'{path}: nested too deeply for a file of annotations or frequencies') from None


def _cache_of(path: Path) -> Path:
    return path.with_name(path.stem + CACHE_SUFFIX)


def _state(path: Path) -> dict:
    stat = path.stat()
    return dict(source=path.name, source_size=stat.st_size, source_mtime_ns=stat.st_mtime_ns)


def _read_cache(path: Path) -> list[float] | None:
    """The kept frequencies, None if there are none, they are of another state of the source, or damaged."""
    try:
        cached = json.loads(_cache_of(path).read_bytes())
        fresh = all(cached[key] == value for key, value in _state(path).items())
        return _frequencies(cached, path) if fresh else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _write_cache(content: dict, path: Path) -> None:
    """Keep the counts beside the source, at once or not at all: several processes may do so together."""
    cache = _cache_of(path)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile('w', dir=cache.parent, prefix=cache.name, delete=False) as file:
            temporary = file.name
            json.dump(content, file)
        os.chmod(temporary, 0o644)  # the data may be shared, and a temporary file is its owner's alone
        os.replace(temporary, cache)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.remove(temporary)
        MMLogger.get_current_instance().warning(
            f'class frequencies of {path} are counted anew in each run: {cache} cannot be written ({error})'
        )

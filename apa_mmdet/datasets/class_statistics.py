"""Statistics of the classes of an annotation file, measured once and kept beside it."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mmengine.logging import MMLogger

from apa_mmdet.utils.fileio import atomic_write

from .annotations.class_measurement import measure_annotations
from .annotations.reading import read_content

SUFFIX = '.class_statistics.json'
VERSION = 2  # of what is kept; in the first, images with crowds only were not annotated
T = TypeVar('T')


def read_class_statistics(path: Path, parse: Callable[[Any], T]) -> T:
    """Reads annotations, which may take a gigabyte, or what an earlier run has measured of them.

    What :func:`~.annotations.class_measurement.measure_classes` finds is kept as ``<stem>.class_statistics.json``
    beside the file, and used again as long as size and modification time of the file are the same. A folder that cannot
    be written costs a line in the log.

    Args:
        path: of an annotation file; another one is parsed as it is, each time.
        parse: makes what is returned of the measurement.

    Raises:
        ValidationError: if the file is damaged; and what ``parse`` raises.
    """
    stat, kept_as = path.stat(), path.with_name(path.stem + SUFFIX)
    # of what is read below, or older: another version may arrive meanwhile
    state = dict(version=VERSION, source=path.name, source_size=stat.st_size, source_mtime_ns=stat.st_mtime_ns)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):  # none, or damaged
        kept = json.loads(kept_as.read_bytes())
        if all(kept[key] == value for key, value in state.items()):
            return parse(kept)
    content = read_content(path)
    measured = measure_annotations(content, str(path))
    if measured is None:
        return parse(content)
    result = parse(measured)
    try:
        atomic_write(kept_as, json.dumps(dict(state, **measured)).encode())  # several processes may do so together
    except OSError as error:
        MMLogger.get_current_instance().warning(
            f'class statistics of {path} are measured again in each run: {kept_as} cannot be written ({error})'
        )
    return result

"""Results that are kept beside the file which they were computed from."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mmengine.logging import MMLogger

from apa_mmdet.utils.fileio import atomic_write

from .validation.reading import read_content

T = TypeVar('T')


def kept_beside(
    path: Path, suffix: str, version: int, measure: Callable[[Any], dict | None], parse: Callable[[Any], T], task: str
) -> T:
    """Reads a file that may take a gigabyte, or what an earlier run has made of it.

    The result is kept as ``<stem><suffix>`` beside the file, and used again as long as size and modification time of
    the file are the same. A folder that cannot be written costs a line in the log.

    Args:
        path: of the file.
        suffix: of the name of the result.
        version: of the result; that of another one is not used.
        measure: makes the result of the content; None for a file that is such a result itself, and is read each time.
        parse: makes what is returned of a result.
        task: what is done again in each run where nothing can be kept.

    Raises:
        ValidationError: if the file is damaged; and what ``measure`` and ``parse`` raise.
    """
    stat, cache = path.stat(), path.with_name(path.stem + suffix)
    # of what is read below, or older: another version may arrive meanwhile
    state = dict(version=version, source=path.name, source_size=stat.st_size, source_mtime_ns=stat.st_mtime_ns)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):  # none, or damaged
        kept = json.loads(cache.read_bytes())
        if all(kept[key] == value for key, value in state.items()):
            return parse(kept)
    content = read_content(path)
    measured = measure(content)
    if measured is None:
        return parse(content)
    result = parse(measured)
    try:
        atomic_write(cache, json.dumps(dict(state, **measured)).encode())  # several processes may do so together
    except OSError as error:
        MMLogger.get_current_instance().warning(f'{task} again in each run: {cache} cannot be written ({error})')
    return result

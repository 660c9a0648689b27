"""Remembers what was found in annotation files, so that a file is validated once and again when it changes.

A stamp is a file in ``${XDG_CACHE_HOME:-~/.cache}/apa_mmdet/annotations``, not beside the annotations, which many users
may only read. It holds size, time and hash of an annotation file without errors, the warnings about it, and what other
checks need of it. Its name is made of the path, of what the file is used for, and of the validation's own code, so that
another version validates again.
"""

import functools
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import mmdet
import msgspec
from mmengine.logging import MMLogger

from apa_mmdet.datasets import annotations, frequency_groups
from apa_mmdet.structures import rle
from apa_mmdet.utils import finding_codes
from apa_mmdet.utils import findings as findings_module
from apa_mmdet.utils.fileio import atomic_write
from apa_mmdet.utils.finding_codes import CODES, ERROR
from apa_mmdet.utils.findings import Finding, Findings
from apa_mmdet.version import __version__

from .annotations import Summary

SETTLED = 2  # seconds; a younger file may change again without a new time: some file systems count in 2 s
MAX_STAMPS = 200  # of all files; those that were not used for longest are removed
CHUNK = 1 << 20


class _Stamp(msgspec.Struct):
    size: int
    mtime_ns: int
    settled: bool  # whether a later change must have another time
    sha256: str
    warnings: list[tuple[str, str, tuple[Any, ...]]]  # code, message, ids
    summary: Summary


def check_once(
    path: str, usage: str, findings: Findings, check: Callable[[Findings], Summary | None]
) -> Summary | None:
    """Returns what ``check`` returns, and adds its findings, or repeats both if the file is as it was then.

    A file of the same size and time is taken for the same; one of the same size is read to compare its hash. Only
    results without errors are kept. If they cannot be, a line in the log says so.

    Args:
        path: of the annotation file.
        usage: whatever else the findings depend on.
        findings: to which those of the file are added.
        check: validates it.
    """
    file, state = _stamp_file(path, usage), _state(path)
    stamp = _read(file, path, state)
    if stamp:
        MMLogger.get_current_instance().info(f'{findings.dataset}: {path} is unchanged since it was validated')
        for code, message, ids in stamp.warnings:
            findings.append(Finding(CODES[code].severity, code, findings.dataset, message, ids))
        return stamp.summary
    before = len(findings)
    with ThreadPoolExecutor(1) as pool:  # on another core, without Python's lock
        digest = pool.submit(_hash, path) if file and state else None
        summary = check(findings)
        new = findings[before:]
        if digest and summary and not any(finding.severity == ERROR for finding in new):
            _write(file, path, state, digest, new, summary)
    return summary


def _stamp_file(path: str, usage: str) -> Path | None:
    with suppress(OSError, RuntimeError):  # the package is in an archive, or there is no home folder
        key = '\0'.join((_version(), os.path.realpath(path), usage)).encode('utf-8', 'surrogatepass')
        folder = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'apa_mmdet' / 'annotations'
        return folder / f'{hashlib.sha256(key).hexdigest()[:32]}.json'
    return None


@functools.cache
def _version() -> str:
    """Changes with the code of the validation."""
    code = b'\0'.join(source.read_bytes() for source in _sources())
    return f'{__version__} {mmdet.__version__} {hashlib.sha256(code).hexdigest()}'


def _sources() -> list[Path]:
    """The files of that code."""
    folders = [Path(file).parent for file in (__file__, annotations.__file__)]
    modules = [Path(module.__file__) for module in (finding_codes, findings_module, rle, frequency_groups)]
    return [source for folder in folders for source in sorted(folder.glob('*.py'))] + modules


def _state(path: str) -> tuple[int, int, bool] | None:
    """Size and time of a file, and whether it has been left alone for a while."""
    with suppress(OSError, ValueError):
        stat = os.stat(path)
        return stat.st_size, stat.st_mtime_ns, time.time() - stat.st_mtime > SETTLED
    return None


def _read(file: Path | None, path: str, state: tuple[int, int, bool] | None) -> _Stamp | None:
    if not file or not state:
        return None
    with suppress(OSError, msgspec.MsgspecError, UnicodeError):  # no stamp, or a damaged one
        stamp = msgspec.json.decode(file.read_bytes(), type=_Stamp)
        size, mtime_ns, settled = state
        if stamp.size != size or any(code not in CODES for code, *_ in stamp.warnings):
            return None
        same = stamp.mtime_ns == mtime_ns and stamp.settled
        if same or (stamp.sha256 == _hash(path) and _state(path) == state):
            stamp.mtime_ns, stamp.settled = mtime_ns, settled
            _save(file, path, b'' if same else msgspec.json.encode(stamp))
            return stamp
    return None


def _write(
    file: Path,
    path: str,
    state: tuple[int, int, bool],
    digest: Future[str],
    warnings: Sequence[Finding],
    summary: Summary,
) -> None:
    found = [(finding.code, finding.message, tuple(finding.ids)) for finding in warnings]
    with suppress(OSError, msgspec.MsgspecError, UnicodeError, TypeError):  # names that JSON cannot hold
        stamp = _Stamp(*state, digest.result(), found, summary)
        encoded = msgspec.json.encode(stamp)
        # not if another version of the file arrived meanwhile
        if msgspec.json.decode(encoded, type=_Stamp) == stamp and (_state(path) or ())[:2] == state[:2]:
            _save(file, path, encoded)


def _hash(path: str) -> str:
    digest, buffer = hashlib.sha256(), bytearray(CHUNK)
    with open(path, 'rb', buffering=0) as file:
        while length := file.readinto(buffer):
            digest.update(memoryview(buffer)[:length])
    return digest.hexdigest()


def _save(file: Path, path: str, encoded: bytes) -> None:
    """Write the stamp, or mark it as used if there is nothing to write; remove those that are not used."""
    try:
        if encoded:
            atomic_write(file, encoded)
        else:
            os.utime(file)
        stamps = sorted(file.parent.glob('*.json'), key=lambda stamp: stamp.stat().st_mtime)
        for stamp in stamps[:-MAX_STAMPS]:
            stamp.unlink(missing_ok=True)
    except FileNotFoundError:
        pass  # another process has removed one
    except OSError as error:
        if encoded:
            MMLogger.get_current_instance().info(
                f'{path} is validated in each run: {file} cannot be written ({error.strerror})'
            )

"""Reads JSON files of annotations; an unreadable one is a ValidationError of one line."""

import json
import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from apa_mmdet.utils.findings import ValidationError, show
from apa_mmdet.utils.garbage import paused_collection

from .encodings import guess_encoding

ARCHIVES = b'\x1f\x8b', b'PK\x03\x04'  # gzip, zip


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValidationError: if it is not JSON in UTF-8 without a byte order mark, as pycocotools reads it, is truncated,
            or gives a key of an object twice; in one line.
    """

    try:
        with open(path, encoding='utf-8') as file:
            return _loads(file.read(), path)
    except json.JSONDecodeError as error:
        if error.doc.startswith('\ufeff'):
            raise ValidationError.of('byte-order-mark', path=path) from None
        if '\0' in error.doc[:4]:
            raise _not_utf8(path) from None
        if not error.doc.strip():
            raise ValidationError.of('empty-file', path=path) from None
        if error.msg.startswith('Unterminated') or error.pos >= len(error.doc.rstrip()) - len('false'):
            raise ValidationError.of('truncated-file', path=path, length=len(error.doc)) from None
        reason = f'{error.msg}, line {error.lineno}, column {error.colno}'
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
    except RecursionError:
        reason = 'nested too deeply'
    except ValidationError:
        raise
    except ValueError as error:  # a number of thousands of digits
        reason = str(error)
    raise ValidationError.of('not-json', path=path, reason=reason)


def _not_utf8(path: str | os.PathLike) -> ValidationError:
    data = Path(path).read_bytes()
    if data.startswith(ARCHIVES):
        return ValidationError.of('packed-file', path=path)
    return ValidationError.of('not-utf8', path=path, encoding=guess_encoding(data))


def read_content(path: str | os.PathLike) -> Any:
    """As :func:`read_json`, but a list of annotations in an object is :class:`.columns.FileAnnotations`.

    Only a file that msgspec cannot read, such as one with NaN, has a list of dictionaries; it takes six times as much
    memory as the file is large.
    """
    from .typed_decoder import decode_content  # imports msgspec, which a process without annotations does not need

    with paused_collection(), open(path, 'rb') as file:
        content = decode_content(file.read(), partial(_loads, path=path))
    return read_json(path) if content is None else content


def read_annotations(path: str | os.PathLike, whole: bool = False) -> dict:
    """Read an annotation file, as :func:`read_content`, or ``whole``, with all that is in it, as :func:`read_json`.

    Raises:
        FileNotFoundError, ValidationError: as :func:`read_json`; ValidationError also if it is not a JSON object.
    """
    content = read_json(path) if whole else read_content(path)
    if not isinstance(content, dict):
        raise ValidationError.of('not-annotations', path=path, type=type(content).__name__)
    return content


def _loads(text: str, path: str | os.PathLike) -> Any:
    def unique_keys(pairs: list[tuple[str, Any]]) -> dict:
        record = dict(pairs)
        if len(record) < len(pairs):
            key = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            owner = f'the record with the id {show(record["id"])}' if 'id' in record else 'a record without id'
            raise ValidationError.of('duplicate-key', path=path, key=show(key), record=owner)
        return record

    return json.loads(text, object_pairs_hook=unique_keys)

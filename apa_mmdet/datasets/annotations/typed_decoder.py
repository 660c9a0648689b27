"""Decodes annotation files of gigabytes in one pass, into columns.

msgspec decodes only what is checked. Where it differs from ``json``, which MMDetection, pycocotools and lvis read with,
a file is left to ``json``, so that both accept the same files and find the same in them:

- msgspec refuses NaN, Infinity and lone surrogates;
- it passes over bytes that are not UTF-8 and numbers of thousands of digits in what it does not decode;
- of a key that an object gives twice it takes the last. Such objects are found by counting the quotation marks of the
  file: those of the keys and texts that were decoded must be all.
"""

import codecs
import contextlib
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from .columns import Annotations, FileAnnotations, id_column
from .records import MAX_NUMBER

RECORDS_AT_ONCE = 10_000
SAMPLE = 1_000  # records that show which other keys there are
STEP, WINDOW = 2048, 64  # bytes; a number of 4,300 digits, which Python does not read, fills a window at each step
UTF8_CHUNK = 1 << 20

Number = Annotated[float, Meta(gt=-MAX_NUMBER, lt=MAX_NUMBER)]
FIELDS: list[tuple] = [
    ('id', int | str),
    ('image_id', int | str),
    ('category_id', int | str),
    ('bbox', tuple[Number, Number, Number, Number]),
    ('area', Number),
]
OPTIONAL: list[tuple] = [('iscrowd', Any, UNSET), ('ignore', Any, UNSET), ('segmentation', Raw | UnsetType, UNSET)]
NAMES = {name for name, *_ in FIELDS + OPTIONAL}


class _File(Struct, forbid_unknown_fields=True):
    """What files of COCO, LVIS and V3Det hold."""

    annotations: list[Raw]
    images: Raw | UnsetType = UNSET
    categories: Raw | UnsetType = UNSET
    info: Raw | UnsetType = UNSET
    licenses: Raw | UnsetType = UNSET


class _RLE(Struct, forbid_unknown_fields=True):
    size: Any
    counts: str | list[Any]


def decode_content(data: bytes, load: Callable[[str], Any]) -> dict[str, Any] | None:
    """The content of an annotation file: ``annotations`` as :class:`FileAnnotations`, the rest as ``load`` reads it.

    Returns None for a file that is to be read as a whole by ``load``, ``json.loads`` that refuses duplicate keys.
    """
    try:
        if not _is_utf8(data) or _has_endless_number(data):
            return None
        parts, records = _split(data)
        texts = {key: str(part, 'utf-8') for key, part in parts.items()}
        content = {key: load(text) for key, text in texts.items()}
        quotes = data.count(b'"') - 2 * (1 + len(texts)) - sum(text.count('"') for text in texts.values())
        if not records:
            return None
        del parts, texts
        content['annotations'] = _decode_records(records, quotes, load)
    except (msgspec.MsgspecError, ValueError, RecursionError):  # load() of the whole tells what is wrong
        return None
    return content if content['annotations'] is not None else None


def _split(data: bytes) -> tuple[dict[str, Raw], list[Raw]]:
    """The values of a file but for its annotations, and these."""
    try:
        file = msgspec.json.decode(data, type=_File)  # in one pass
        parts = msgspec.structs.asdict(file)
        records = parts.pop('annotations')
        return {key: part for key, part in parts.items() if part is not UNSET}, records
    except msgspec.ValidationError:
        parts = msgspec.json.decode(data, type=dict[str, Raw])
        return parts, msgspec.json.decode(parts.pop('annotations', b'null'), type=list[Raw])


def _is_utf8(data: bytes) -> bool:
    if not data.isascii():
        decoder, view = codecs.getincrementaldecoder('utf-8')(), memoryview(data)
        for start in range(0, len(data), UTF8_CHUNK):
            decoder.decode(view[start : start + UTF8_CHUNK], start + UTF8_CHUNK >= len(data))  # raises ValueError
    return True


def _has_endless_number(data: bytes) -> bool:
    return any(data[start : start + WINDOW].isdigit() for start in range(0, len(data) - WINDOW, STEP))


def _decode_records(records: Sequence[Raw], quotes: int, load: Callable[[str], Any]) -> FileAnnotations | None:
    """Columns of the records; None if the ``quotes`` in them are more than they should be."""
    record_type, extras = _record_type(records[:SAMPLE])
    decode = msgspec.json.Decoder(record_type).decode
    blank = record_type(0, 0, 0, (np.nan,) * 4, np.nan)
    irregular: dict[int, Any] = {}
    ids: list[list[np.ndarray]] = [[], [], []]
    boxes, areas = np.empty((len(records), 4)), np.empty(len(records))
    optional: list[list] = [[], [], []]
    for start in range(0, len(records), RECORDS_AT_ONCE):
        decoded = []
        for i, raw in enumerate(records[start : start + RECORDS_AT_ONCE], start):
            try:
                decoded.append(decode(raw))
                continue
            except msgspec.ValidationError:
                text = str(raw, 'utf-8')
            irregular[i] = load(text)
            quotes -= text.count('"')
            decoded.append(blank)
        part = slice(start, start + len(decoded))
        boxes[part], areas[part] = [r.bbox for r in decoded], [r.area for r in decoded]
        for column, (name, *_) in zip(ids, FIELDS):
            column.append(id_column(list(map(attrgetter(name), decoded))))
        for values, (name, *_) in zip(optional, OPTIONAL):
            found = list(map(attrgetter(name), decoded))
            absent = sum(value is UNSET for value in found)
            quotes -= 2 * (len(found) - absent)
            values += found if not absent else [None if value is UNSET else value for value in found]
        for name in extras:
            present = [value for value in map(attrgetter(name), decoded) if value is not UNSET]
            quotes -= 2 * len(present) + sum(_count_quotes(value, load) for value in present)
    quotes -= 2 * len(FIELDS) * (len(records) - len(irregular))
    columns = [np.concatenate(column) for column in ids]
    quotes -= 2 * sum(type(i) is str for column in columns if column.dtype == object for i in column)
    if quotes:
        quotes -= sum(_count_quotes(mask, load) for mask in optional[2] if mask is not None)
    return None if quotes else FileAnnotations(Annotations(*columns, boxes, areas, *optional), irregular)


def _record_type(sample: Sequence[Raw]) -> tuple[type[Struct], list[str]]:
    """The type of an annotation that has no keys but the known ones and those of the sample; names of the latter."""
    keys: dict[str, None] = {}
    for raw in sample:
        with contextlib.suppress(msgspec.ValidationError):  # not an object
            keys.update(dict.fromkeys(msgspec.json.decode(raw, type=dict[str, Raw])))
    names = {f'extra_{i}': key for i, key in enumerate(key for key in keys if key not in NAMES)}
    extras = [(name, Raw | UnsetType, UNSET) for name in names]
    record_type = msgspec.defstruct(
        'Record', FIELDS + OPTIONAL + extras, rename=names, forbid_unknown_fields=True, gc=False
    )
    return record_type, list(names)


def _count_quotes(raw: Raw, load: Callable[[str], Any]) -> int:
    """Quotation marks in a value; raises as ``load`` if an object in it gives a key twice."""
    data = bytes(raw)
    count = data.count(b'"')
    if count and b'{' in data:
        try:
            rle = msgspec.json.decode(data, type=_RLE)
            known = not isinstance(rle.size, (dict, str)) and count == 4 + 2 * isinstance(rle.counts, str)
        except msgspec.MsgspecError:
            known = False
        if not known:
            load(data.decode('utf-8'))
    return count

"""Masks of an annotation file, kept as text and decoded one by one: the numbers of all would take gigabytes.

msgspec is imported on use, so that ``import apa_mmdet`` imports no library that MMDetection does not.
"""

import functools
import json
from collections.abc import Callable
from typing import Annotated, Any

FAR = 1e4  # pixels
MAX_NUMBERS = 500  # of a mask; an outline between so many near coordinates has at most 5 million pixels


def plain(segmentation: Any) -> Any:
    """A segmentation as ``json`` reads it; ``msgspec.Raw`` is text that is not decoded yet.

    Example:
        >>> import msgspec
        >>> plain(msgspec.Raw(b'[[1, 2.5]]')), plain([])
        ([[1, 2.5]], [])
    """
    import msgspec

    if not isinstance(segmentation, msgspec.Raw):
        return segmentation
    try:
        return msgspec.json.decode(segmentation)
    except msgspec.MsgspecError:  # 1e400
        return json.loads(bytes(segmentation))


def is_polygon(polygon: list) -> bool:
    """Whether there are three points or more, each with two numbers."""
    return len(polygon) >= 6 and len(polygon) % 2 == 0


def usual_polygons(segmentation: Any) -> list[list[float]] | None:
    """The polygons of a text without any fault, neither long nor far from the image, else None; checked in C.

    Example:
        >>> from msgspec import Raw
        >>> usual_polygons(Raw(b'[[0, 0, 4, 0, 4, 3]]')), usual_polygons(Raw(b'[[0, 0, 4, 0]]'))
        ([[0.0, 0.0, 4.0, 0.0, 4.0, 3.0]], None)
    """
    import msgspec

    if type(segmentation) is not msgspec.Raw:
        return None
    try:
        polygons = _polygon_decoder()(segmentation)
    except msgspec.MsgspecError:
        return None
    if len(polygons) == 1:
        return None if len(polygons[0]) % 2 else polygons
    lengths = list(map(len, polygons))
    is_usual = lengths and sum(lengths) <= MAX_NUMBERS and not any(length % 2 for length in lengths)
    return polygons if is_usual else None


@functools.cache
def _polygon_decoder() -> Callable[[Any], list[list[float]]]:
    from msgspec import Meta, json

    polygon = Annotated[list[Annotated[float, Meta(ge=-FAR, le=FAR)]], Meta(min_length=6, max_length=MAX_NUMBERS)]
    return json.Decoder(list[polygon]).decode

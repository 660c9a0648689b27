"""COCO's run-length encodings (RLE)."""

import numpy as np


def run_lengths(counts: str | bytes) -> np.ndarray | None:
    """Decode COCO's text of run lengths; None if it is not such a text.

    A character holds 6 bits, counted from '0': 5 of a number, low ones first, and whether more follow. The number's top
    bit is its sign. From the fourth run on, a number is the difference to the run before the last.

    Example:
        >>> run_lengths('52203')
        array([5, 2, 2, 2, 5])
    """
    data = counts.encode('utf-8', 'surrogatepass') if isinstance(counts, str) else counts
    codes = np.frombuffer(data, np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] >= 32:
        return None
    ends = np.flatnonzero(codes < 32)
    starts = np.append(0, ends[:-1] + 1)
    length = ends - starts + 1
    if length.max() > 7:  # 35 bits: more than any image has pixels
        return None
    place = np.arange(len(codes)) - np.repeat(starts, length)
    runs = np.add.reduceat((codes & 31) << 5 * place, starts)
    runs -= (codes[ends] >> 4 & 1) << 5 * length
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def is_rle(counts: str | bytes, pixels: int) -> bool:
    """Whether ``counts`` is the compressed RLE of a mask of so many pixels.

    faster-coco-eval and pycocotools accept anything.
    """
    runs = run_lengths(counts)
    return runs is not None and bool(runs.min() >= 0) and int(runs.sum()) == pixels

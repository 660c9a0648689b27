"""Checks that the images of a data set are there, complete, as large as annotated, and loaded as they are."""

import io
import os
import unicodedata
import warnings
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import NamedTuple

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio
from PIL import Image, UnidentifiedImageError
from torch.utils.data import DataLoader
from tqdm import tqdm

from apa_mmdet.utils.findings import EXAMPLES, Findings
from apa_mmdet.utils.missing_data_hints import hint_for

BATCH_SIZE = 32  # images between two messages of a worker process
AnnotatedImage = tuple[str, float, float] | tuple[str]  # path, and height and width where they are annotated
ORIENTATION, TURNED = 274, (5, 6, 7, 8)  # tag of EXIF, and its values that exchange width and height
BITS_PER_SAMPLE = 258  # tag of TIFF
PNG_BIT_DEPTH = 24  # offset in the file
NOT_AN_IMAGE = 'not an image that OpenCV reads'
DARK = 64  # of 255: what no image of a data set exceeds has lost 2 of its 8 bits


class Fault(NamedTuple):
    code: str
    path: str
    detail: str = ''
    top: float = 0  # highest value as loaded, for images of many bits


def _find_faults(loader: BaseTransform, decode: bool, images: list[AnnotatedImage]) -> list[list[Fault]]:
    return [list(_faults_of(loader, decode, *image)) for image in images]


def _faults_of(loader: BaseTransform, decode: bool, path: str, *annotated: float) -> Iterator[Fault]:
    backend_args = getattr(loader, 'backend_args', None)
    try:
        if not fileio.isfile(path, backend_args=backend_args):
            return (yield Fault('missing-image', path))
        if not decode:
            return
        data = fileio.get(path, backend_args=backend_args)
        orientation, depth = _read_to_the_end(data)
        loaded = loader(dict(img_path=path))
    except AssertionError:  # of mmcv's loader, without an image
        return (yield Fault('unreadable-image', path, NOT_AN_IMAGE))
    except Exception as error:  # decoders raise what they like
        reason = getattr(error, 'strerror', None) or str(error).partition('\n')[0] or NOT_AN_IMAGE
        return (yield Fault('unreadable-image', path, reason))
    size, is_turned = list(loaded['ori_shape']), orientation in TURNED
    if annotated and size != list(annotated):
        code = 'image-size-mismatch'
        if is_turned and size[::-1] == list(annotated):
            code = 'orientation-applied' if _applies_orientation(loader) else 'orientation-ignored'
        yield Fault(code, path, '{1}x{0}, annotated {3}x{2}'.format(*size, *annotated))
    elif annotated and orientation > 1 and _applies_orientation(loader) and (not is_turned or size[0] == size[1]):
        yield Fault('orientation-tag', path, f'orientation {orientation}')
    if depth > 8:
        stored, top = _highest_value(data), float(loaded['img'].max())
        if stored > top:
            yield Fault('high-bit-depth', path, f'values up to {stored:g} become {top:g}', top)


def _read_to_the_end(data: bytes) -> tuple[int, int]:
    """The orientation tag of an image, 1 without one, and its bits per channel, 8 if unknown.

    Raises if it is truncated: OpenCV before 5.0 pads a JPEG with gray without an error.
    """
    if not data:
        raise ValueError('the file is empty')
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            return _orientation(image), _bits_per_channel(image, data)
    except (UnidentifiedImageError, Image.DecompressionBombError):
        return 1, 8  # for the loader to decide: OpenCV knows other formats and limits


def _orientation(image: Image.Image) -> int:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            tag = image.getexif().get(ORIENTATION)
    except Exception:  # damaged metadata, of which Pillow raises what it likes, are no fault of the image
        return 1
    return tag if tag in range(1, 9) else 1


def _bits_per_channel(image: Image.Image, data: bytes) -> int:
    if image.format == 'PNG':
        return data[PNG_BIT_DEPTH]  # Pillow converts 16-bit colors
    if image.format == 'TIFF':
        bits = image.tag_v2.get(BITS_PER_SAMPLE, 8)
        return max(bits) if isinstance(bits, tuple) else bits
    return 8 if image.mode in ('1', 'L', 'P', 'LA', 'PA', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'LAB', 'HSV') else 16


def _applies_orientation(loader: BaseTransform) -> bool:
    turns = getattr(loader, 'imdecode_backend', 'cv2') in ('cv2', 'pillow', None)
    return turns and getattr(loader, 'color_type', 'color') in ('color', 'grayscale')


def _similar_file(path: str) -> str:
    """Says which file of the folder differs from a missing one only in what other systems take for the same.

    These are upper and lower case, the form of letters with accents (macOS writes them as two characters), and the
    suffix.
    """

    def spelled(name: str) -> str:
        return unicodedata.normalize('NFC', name).casefold()

    folder, name = os.path.split(path)
    try:
        names = sorted(os.listdir(folder or '.'))
    except (OSError, ValueError):  # no such folder, or a path that cannot be one
        return ''
    for part in (spelled, lambda name: os.path.splitext(spelled(name))[0]):
        for other in names:
            if part(other) == part(name):
                return f'there is {other!a}'
    return ''


def _highest_value(data: bytes) -> float:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return -1 if image is None else float(image.max())


def check_images(
    images: list[AnnotatedImage],
    loader: BaseTransform,
    findings: Findings,
    decode: bool = True,
    workers: int = 0,
    progress: bool = True,
) -> None:
    """Check every image, in ``workers`` processes; without ``decode`` only that the files exist.

    ``loader`` is the transform that loads images in training; ``progress``: show a progress bar, on a terminal.
    """
    find_faults = partial(_find_faults, loader, decode)  # which a worker process calls with each batch
    batches = DataLoader(images, BATCH_SIZE, num_workers=workers, collate_fn=find_faults)
    faults: list[Fault] = []
    title = f'{findings.dataset}: images'
    with tqdm(total=len(images), unit='image', desc=title, leave=False, disable=not progress or None) as bar:
        try:
            for batch in batches:
                faults += chain.from_iterable(batch)
                bar.update(len(batch))
        except RuntimeError:  # the system ended it: a decoder crashed, or memory ran out
            findings.add('image-reader-died', done=bar.n, total=len(images))
    for code in dict.fromkeys(fault.code for fault in faults):
        _, paths, details, tops = zip(*(fault for fault in faults if fault.code == code))
        hint, top = hint_for(paths[0]), max(tops)
        if code == 'high-bit-depth' and top < DARK:
            code = 'nearly-black-images'
        if code == 'missing-image':
            details = [_similar_file(path) for path in paths[:EXAMPLES]]
        findings.report(code, paths, len(images), details, hint=f'; {hint}' if hint else '', top=f'{top:g}')

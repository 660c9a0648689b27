"""Checks that the images of a data set are there, complete, and as large as their annotations say."""

import io
from functools import partial

from mmcv.transforms import BaseTransform
from mmengine import fileio
from PIL import Image, UnidentifiedImageError
from torch.utils.data import DataLoader
from tqdm import tqdm

from apa_mmdet.utils.missing_data_hints import hint_for

from .findings import Findings

BATCH_SIZE = 32  # images between two messages of a worker process
AnnotatedImage = tuple[str, float, float]  # path, and height and width as annotated
Fault = tuple[str, str, str]  # code, path, detail


def _find_faults(loader: BaseTransform, decode: bool, images: list[AnnotatedImage]) -> list[Fault | None]:
    return [_find_fault(loader, decode, *image) for image in images]


def _find_fault(loader: BaseTransform, decode: bool, path: str, *annotated: float) -> Fault | None:
    backend_args = getattr(loader, 'backend_args', None)
    try:
        if not fileio.isfile(path, backend_args=backend_args):
            return 'missing-image', path, ''
        if not decode:
            return None
        _read_to_the_end(fileio.get(path, backend_args=backend_args))
        size = list(loader(dict(img_path=path))['ori_shape'])
    except Exception as error:  # decoders raise what they like
        reason = getattr(error, 'strerror', None) or str(error).partition('\n')[0]
        if not reason or path in reason:
            reason = 'not an image that OpenCV reads'
        return 'unreadable-image', path, reason
    if size != list(annotated):
        return 'image-size-mismatch', path, '{1}x{0}, annotated {3}x{2}'.format(*size, *annotated)
    return None


def _read_to_the_end(data: bytes) -> None:
    """Raise if an image is truncated. OpenCV before 5.0 pads a JPEG with gray without an error."""
    if not data:
        raise ValueError('the file is empty')
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except (UnidentifiedImageError, Image.DecompressionBombError):
        pass  # for the loader to decide: OpenCV knows other formats and limits


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
    faults, title = [], f'{findings.dataset}: images'
    with tqdm(total=len(images), unit='image', desc=title, leave=False, disable=not progress or None) as bar:
        try:
            for batch in batches:
                faults += filter(None, batch)
                bar.update(len(batch))
        except RuntimeError:  # the system ended it: a decoder crashed, or memory ran out
            findings.add('image-reader-died', done=bar.n, total=len(images))
    for code in dict.fromkeys(code for code, *_ in faults):
        paths, details = zip(*(fault for of, *fault in faults if of == code))
        hint = hint_for(paths[0])
        findings.report(code, paths, len(images), details, hint=f'; {hint}' if hint else '')

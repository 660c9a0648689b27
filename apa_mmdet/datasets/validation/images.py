"""Checks that the images of a data set are there, complete, and as large as their annotations say."""

import io
from typing import NamedTuple

from mmcv.transforms import BaseTransform
from mmengine import fileio
from PIL import Image, UnidentifiedImageError
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from apa_mmdet.utils.missing_data_hints import hint_for

from .findings import Findings

BATCH_SIZE = 32  # images between two messages of a worker process
CODES = ('missing-image', 'unreadable-image', 'image-size-mismatch')


class Problem(NamedTuple):
    """The fault of an image file; ``code`` is one of ``CODES``."""

    code: str
    path: str
    detail: str = ''


class ImageFiles(Dataset):
    """An item is the :class:`Problem` of an image file, or None.

    Args:
        images: path of each, and height and width as annotated.
        loader: the transform that loads images in training.
        decode: read the whole image; otherwise only check that the file exists.
    """

    def __init__(self, images: list[tuple[str, float, float]], loader: BaseTransform, decode: bool) -> None:
        self.images = images
        self.loader = loader
        self.decode = decode
        self.backend_args = getattr(loader, 'backend_args', None)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Problem | None:
        path, *annotated = self.images[index]
        try:
            if not fileio.isfile(path, backend_args=self.backend_args):
                return Problem('missing-image', path)
            if not self.decode:
                return None
            _read_to_the_end(fileio.get(path, backend_args=self.backend_args))
            size = list(self.loader(dict(img_path=path))['ori_shape'])
        except Exception as error:  # decoders raise what they like
            reason = getattr(error, 'strerror', None) or str(error).partition('\n')[0]
            if not reason or path in reason:
                reason = 'not an image that OpenCV reads'
            return Problem('unreadable-image', path, reason)
        if size != annotated:
            return Problem('image-size-mismatch', path, '{1}x{0}, annotated {3}x{2}'.format(*size, *annotated))
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
    images: list[tuple[str, float, float]],
    loader: BaseTransform,
    findings: Findings,
    decode: bool = True,
    workers: int = 0,
    progress: bool = True,
) -> None:
    """Check every image, in ``workers`` processes. Other arguments as :class:`ImageFiles`."""
    batches = DataLoader(ImageFiles(images, loader, decode), BATCH_SIZE, num_workers=workers, collate_fn=list)
    problems = []
    with tqdm(
        total=len(images),
        unit='image',
        desc=f'{findings.dataset}: images',
        leave=False,
        disable=None if progress else True,
    ) as bar:
        try:
            for batch in batches:
                problems += [problem for problem in batch if problem]
                bar.update(len(batch))
        except RuntimeError:  # the system ended it: a decoder crashed, or memory ran out
            findings.add('image-reader-died', done=bar.n, total=len(images))
    for code in CODES:
        of_code = [problem for problem in problems if problem.code == code]
        hint = hint_for(of_code[0].path) if of_code else None
        details = [problem.detail for problem in of_code]
        paths, hint = [problem.path for problem in of_code], f'; {hint}' if hint else ''
        findings.report(code, paths, len(images), details, hint=hint)

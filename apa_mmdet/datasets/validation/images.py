"""Whether the images of a data set are there, whole, and as large as their annotations say."""

import io
from typing import NamedTuple

from mmcv.transforms import BaseTransform
from mmengine import fileio
from PIL import Image, UnidentifiedImageError
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from apa_mmdet.utils.missing_data_hints import explain

from .findings import ERROR, Notes, show

BATCH = 32  # images between two messages of a worker process
# kind: what is found, and what to do about it
PROBLEMS = dict(
    missing=('missing images', 'put them there, or correct data_root and data_prefix'),
    unreadable=('images that cannot be read', 'get them again'),
    resized=('images of another size than annotated', 'correct the annotations; mind the orientation tag of photos'),
)


class Problem(NamedTuple):
    """What is wrong with an image file; ``kind`` is one of ``PROBLEMS``."""

    kind: str
    path: str
    detail: str = ''

    def __str__(self) -> str:
        return f'{show(self.path)} ({self.detail})' if self.detail else self.path


class ImageFiles(Dataset):
    """An item is the :class:`Problem` of an image file, or None.

    Args:
        images: path of each, and height and width as annotated.
        loader: the transform that loads images in training.
        decode: read the whole image; otherwise only look whether the file is there.
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
                return Problem('missing', path)
            if not self.decode:
                return None
            _read_to_the_end(fileio.get(path, backend_args=self.backend_args))
            found = list(self.loader(dict(img_path=path))['ori_shape'])
        except Exception as error:  # decoders raise what they like
            said = getattr(error, 'strerror', None) or str(error).partition('\n')[0]
            return Problem('unreadable', path, said if said and path not in said else 'not an image that OpenCV reads')
        if found != annotated:
            return Problem('resized', path, '{1}x{0}, annotated {3}x{2}'.format(*found, *annotated))
        return None


def _read_to_the_end(data: bytes) -> None:
    """Raise if an image is cut off. OpenCV before 5.0 pads a JPEG with grey and says nothing."""
    if not data:
        raise ValueError('the file is empty')
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except (UnidentifiedImageError, Image.DecompressionBombError):
        pass  # for the loader to judge: OpenCV knows other formats and limits


def check_images(
    images: list[tuple[str, float, float]],
    loader: BaseTransform,
    notes: Notes,
    decode: bool = True,
    workers: int = 0,
    progress: bool = True,
) -> None:
    """Look at every image, in ``workers`` processes. Arguments as :class:`ImageFiles`; ``notes`` gets the findings."""
    batches = DataLoader(ImageFiles(images, loader, decode), BATCH, num_workers=workers, collate_fn=list)
    problems = []
    with tqdm(
        total=len(images),
        unit='image',
        desc=f'{notes.dataset}: images',
        leave=False,
        disable=None if progress else True,
    ) as bar:
        try:
            for batch in batches:
                problems += [problem for problem in batch if problem]
                bar.update(len(batch))
        except RuntimeError:  # the system ended it: a decoder crashed, or memory ran out
            notes.error(f'a process that reads images died after {bar.n} of {len(images)}; --workers 0 shows where')
    for kind, (what, then) in PROBLEMS.items():
        found = [problem for problem in problems if problem.kind == kind]
        if kind == 'missing' and found:
            path = found[0].path
            then += explain(FileNotFoundError(2, '', path)).removeprefix(f'missing: {path}')  # '; ' and a hint, or ''
        notes.some(ERROR, what, found, len(images), then)

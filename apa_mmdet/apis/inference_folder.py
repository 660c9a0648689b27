"""Detection on the images of a folder."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import mmcv
from mmdet.apis.det_inferencer import IMG_EXTENSIONS
from tqdm import tqdm

from .det_inferencer import StrictDetInferencer


class Summary(NamedTuple):
    """Number of images and of objects of each class, and the paths that are not images or damaged."""

    images: int
    objects: Counter
    unreadable: list[str]

    def __str__(self) -> str:
        number = self.objects.total()
        most = ', '.join(f'{name} {count}' for name, count in self.objects.most_common(5))
        return f'{number or "no"} object{"s" * (number != 1)} in {self.images} image{"s" * (self.images != 1)}' + (
            f': {most}{", …" * (len(self.objects) > 5)}' if number else '; a lower --score-thr shows weaker ones'
        )


def detect_folder(
    inferencer: StrictDetInferencer,
    source: str,
    out_dir: str,
    batch_size: int = 1,
    score_thr: float = 0.3,
    no_save_vis: bool = False,
    no_save_pred: bool = False,
) -> Summary:
    """Runs the inferencer on an image, or on all of a folder and its sub-folders.

    Args:
        source: image or folder.
        out_dir: gets ``vis/NAME``, the images with their objects, and ``preds/NAME.json``, the objects; NAME is the
            path in the folder.
        batch_size: images that go through the network at once.
        score_thr: lowest score, in images and JSON.
        no_save_vis: do not write images.
        no_save_pred: do not write JSON.

    Raises:
        OSError: if ``source`` does not exist or ``out_dir`` cannot be written.
        ValueError: if the folder holds no image. One that cannot be read is skipped, and listed in the summary.
    """
    inferencer.root, paths = find_images(Path(source), Path(out_dir) / 'vis')
    objects, unreadable = Counter(), []
    options = dict(out_dir=out_dir, no_save_vis=no_save_vis, no_save_pred=no_save_pred, pred_score_thr=-1)  # all left
    with tqdm(total=len(paths), unit='image') as bar:
        for begin in range(0, len(paths), batch_size):
            batch = paths[begin : begin + batch_size]
            readable = [path for path in batch if _is_readable(path)]
            unreadable += [path for path in batch if path not in readable]
            if readable:
                found = inferencer(readable, batch_size=len(readable), score_thr=score_thr, **options)
                objects.update(name for image in found['predictions'] for name in image['label_names'])
            bar.update(len(batch))
    return Summary(len(paths) - len(unreadable), objects, unreadable)


def find_images(source: Path, exclude: Path) -> tuple[Path, list[str]]:
    """Returns a folder and the paths of its images in alphabetical order.

    Args:
        source: an image, or a folder that is searched with its sub-folders; names that begin with a dot are skipped.
        exclude: a folder that is skipped, where an earlier run wrote its own images.

    Raises:
        FileNotFoundError: if ``source`` does not exist.
        ValueError: if it holds no image.
    """
    if source.is_file():
        return source.parent, [str(source)]
    if not source.is_dir():
        raise FileNotFoundError(f'{source}: no such image or folder')
    paths = [
        str(path)
        for path in sorted(source.rglob('*'))
        if path.suffix.lower() in IMG_EXTENSIONS
        and path.is_file()
        and exclude.resolve() not in path.resolve().parents
        and not any(part.startswith('.') for part in path.relative_to(source).parts)
    ]
    if not paths:
        raise ValueError(f'{source} holds no image: no file that ends in {", ".join(IMG_EXTENSIONS)}')
    return source, paths


def _is_readable(path: str) -> bool:
    try:
        return mmcv.imread(path) is not None
    except Exception:  # OpenCV raises all types over arbitrary bytes
        return False

"""Detection on the images of a folder."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from mmdet.apis.det_inferencer import IMG_EXTENSIONS
from tqdm import tqdm

from apa_mmdet.utils.errors import CodedError, one_line
from apa_mmdet.visualization.images import UNREADABLE, BadImage

from .det_inferencer import StrictDetInferencer

# mmdet's, and what newer OpenCV or Pillow read, as far as they are built for it; the rest is listed as unreadable
IMAGE_SUFFIXES = (*IMG_EXTENSIONS, '.avif', '.dib', '.gif', '.heic', '.heif', '.jfif', '.jp2', '.jpe', '.jxl')


class Summary(NamedTuple):
    """Number of images and of objects of each class, and for the paths of images that were skipped, the reason."""

    images: int
    objects: Counter
    skipped: dict[str, str]

    def explain_skipped(self, most: int = 5) -> str:
        """Names the skipped images in one line, by reason, with at most ``most`` paths for each.

        Example:
            >>> Summary(1, Counter(), {'a.jpg': 'damaged', 'b.jpg': 'damaged', 'c.png': 'gray'}).explain_skipped(1)
            '3 images skipped: damaged: a.jpg, …; gray: c.png'
        """
        paths_of: dict[str, list[str]] = {}
        for path, reason in self.skipped.items():
            paths_of.setdefault(reason, []).append(path)
        reasons = [f'{reason}: {", ".join(p[:most])}{", …" * (len(p) > most)}' for reason, p in paths_of.items()]
        return f'{len(self.skipped)} image{"s" * (len(self.skipped) != 1)} skipped: {"; ".join(reasons)}'

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
    all_classes: bool = False,
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
        all_classes: give an object as every class that it is detected as, not only as the best.

    Raises:
        OSError: if ``source`` does not exist or ``out_dir`` cannot be written.
        CodedError: ``no-images``, if the folder holds none. One that cannot be read, or that the detector cannot take,
            as of another number of channels, is skipped, and listed in the summary.
    """
    inferencer.root, paths = find_images(Path(source), Path(out_dir) / 'vis')
    objects, skipped = Counter(), {}
    options = dict(out_dir=out_dir, no_save_vis=no_save_vis, no_save_pred=no_save_pred, pred_score_thr=-1)  # all left
    options.update(score_thr=score_thr, all_classes=all_classes)

    def detect(batch: list[str]) -> None:
        found = inferencer(batch, batch_size=len(batch), **options)
        objects.update(name for image in found['predictions'] for name in image['label_names'])

    with tqdm(total=len(paths), unit='image') as bar:
        for begin in range(0, len(paths), batch_size):
            batch = paths[begin : begin + batch_size]
            try:
                detect(batch)
            except (OSError, torch.cuda.OutOfMemoryError):  # of the disk or the GPU: not because of an image
                raise
            except Exception:  # of decoders and of the network, which raise what they like: find out over which image
                for path in batch:
                    try:
                        detect([path])
                    except (OSError, torch.cuda.OutOfMemoryError):
                        raise
                    except Exception as error:
                        skipped[path] = UNREADABLE if isinstance(error, BadImage) else one_line(error)
            bar.update(len(batch))
    return Summary(len(paths) - len(skipped), objects, skipped)


def find_images(source: Path, exclude: Path) -> tuple[Path, list[str]]:
    """Returns a folder and the paths of its images in alphabetical order.

    Args:
        source: an image, or a folder that is searched with its sub-folders; names that begin with a dot are skipped.
        exclude: a folder that is skipped, where an earlier run wrote its own images.

    Raises:
        FileNotFoundError: if ``source`` does not exist.
        CodedError: ``no-images``, if it holds none.
    """
    if source.is_file():
        return source.parent, [str(source)]
    if not source.is_dir():
        raise FileNotFoundError(f'{source}: no such image or folder')
    paths = [
        str(path)
        for path in sorted(source.rglob('*'))
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and exclude.resolve() not in path.resolve().parents
        and not any(part.startswith('.') for part in path.relative_to(source).parts)
    ]
    if not paths:
        suffixes = ', '.join(IMAGE_SUFFIXES)
        raise CodedError('no-images', f'{source} holds no image: no file that ends in {suffixes}')
    return source, paths

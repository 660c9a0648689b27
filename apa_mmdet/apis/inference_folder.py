"""Detection on the images of a folder: pictures and JSON under the images' names."""

import json
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
from mmdet.apis.det_inferencer import IMG_EXTENSIONS
from mmdet.structures import DetDataSample
from tqdm import tqdm

from apa_mmdet.visualization.local_visualizer import draw

from .det_inferencer import StrictDetInferencer, above


class Summary(NamedTuple):
    """What was done with a folder of images; ``str`` of it is what a person reads."""

    images: int
    objects: Counter
    score_thr: float
    folders: dict[str, Path]
    unreadable: list[str]

    def __str__(self) -> str:
        number = self.objects.total()
        most = ', '.join(f'{name} {count}' for name, count in self.objects.most_common(5))
        lines = [
            f'found      {number or "no"} object{"s" * (number != 1)} of score {self.score_thr:g} or more'
            f' in {self.images} image{"s" * (self.images != 1)}'
            + (f': {most}{", …" * (len(self.objects) > 5)}' if number else '; a lower --score-thr shows weaker ones')
        ]
        return '\n'.join(lines + [f'{what:10} {folder}' for what, folder in self.folders.items()])


def detect_files(
    inferencer: StrictDetInferencer,
    source: str | os.PathLike,
    out_dir: str | os.PathLike,
    batch_size: int = 1,
    score_thr: float = 0.3,
    pictures: bool = True,
    results: bool = True,
    progress: bool = True,
) -> Summary:
    """Detect on an image, or on all of a folder and its sub-folders, and write what was found under their names.

    Args:
        source: image or folder.
        out_dir: gets ``vis/NAME``, the pictures, and ``preds/NAME.json``, the objects; NAME is the path in the folder.
        batch_size: images that go through the network at once.
        score_thr: lowest score, in pictures and results.
        pictures, results: whether to write these.
        progress: show a progress bar on stderr.

    Raises:
        OSError: if ``source`` is not there or ``out_dir`` cannot be written.
        ValueError: if the folder holds no image. One that cannot be read is left out, and named in the summary.
    """
    out = Path(out_dir)
    folders = {
        what: out / name
        for what, name, wanted in (('pictures', 'vis', pictures), ('results', 'preds', results))
        if wanted
    }
    root, names = find_images(Path(source), out / 'vis')
    objects, unreadable = Counter(), []
    with tqdm(total=len(names), unit='image', disable=not progress) as bar:
        for begin in range(0, len(names), batch_size):
            batch = names[begin : begin + batch_size]
            images = {name: image for name in batch if (image := _read(root / name)) is not None}
            unreadable += [str(root / name) for name in batch if name not in images]
            for name, sample in zip(images, _predict(inferencer, [str(root / name) for name in images])):
                sample = above(sample, score_thr)
                objects.update(sample.pred_instances.label_names)
                if pictures:
                    picture = draw(inferencer.visualizer, images[name], sample, draw_gt=False, pred_score_thr=-1)
                    mmcv.imwrite(picture, str(folders['pictures'] / _picture_name(name)))
                if results:
                    _write(folders['results'] / f'{name}.json', _record(inferencer, sample, name))
            bar.update(len(batch))
    return Summary(len(names) - len(unreadable), objects, score_thr, folders, unreadable)


def find_images(source: Path, besides: Path) -> tuple[Path, list[str]]:
    """A folder, and the paths in it of the images to look at, in alphabetical order.

    Args:
        source: an image, or a folder that is searched with its sub-folders; names that begin with a dot are left out.
        besides: a folder whose images are left out, where an earlier run wrote its own.

    Raises:
        FileNotFoundError: if ``source`` is not there.
        ValueError: if it holds no image.
    """
    if source.is_file():
        return source.parent, [source.name]
    if not source.is_dir():
        raise FileNotFoundError(f'{source}: no such image or folder')
    besides = besides.resolve()
    names = [
        path.relative_to(source).as_posix()
        for path in sorted(source.rglob('*'))
        if path.suffix.lower() in IMG_EXTENSIONS and path.is_file() and besides not in path.resolve().parents
    ]
    names = [name for name in names if not any(part.startswith('.') for part in name.split('/'))]
    if not names:
        raise ValueError(f'{source} holds no image: no file that ends in {", ".join(IMG_EXTENSIONS)}')
    return source, names


def _predict(inferencer: StrictDetInferencer, paths: list[str]) -> list[DetDataSample]:
    return inferencer(paths, batch_size=len(paths), return_datasamples=True)['predictions'] if paths else []


def _picture_name(name: str) -> str:
    """The image's own where that says a format with colours, or else one more suffix."""
    suffix = Path(name).suffix.lower()
    return name if suffix in IMG_EXTENSIONS and suffix != '.pgm' else f'{name}.png'


def _read(path: Path) -> np.ndarray | None:
    """The image in RGB; None if it is none."""
    try:
        return mmcv.imread(str(path), channel_order='rgb')
    except Exception:  # OpenCV raises all kinds over arbitrary bytes
        return None


def _record(inferencer: StrictDetInferencer, sample: DetDataSample, name: str) -> dict:
    """What JSON says of an image."""
    height, width = sample.ori_shape
    names = sample.pred_instances.label_names
    return dict(image=name, height=height, width=width, label_names=names, **inferencer.pred2dict(sample))


def _write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False))

"""Small, drawn, long-tailed instance segmentation data sets, in the files of LVIS, COCO or V3Det.

And, in those of ImageNet, balanced classification sets of the same objects, to pretrain on.

``vocabularies.py`` names the classes, ``plan.py`` says which image shows which of them, ``scenes.py`` draws them,
``formats.py`` names the files and writes the records. The images of a vocabulary are the same in every format.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from apa_mmdet.datasets.frequency_groups import GROUPS, group_classes

from .formats import DATE, FORMATS, DatasetFormat, count
from .plan import SPLITS
from .scenes import draw_scene

VERSION = 1  # increase it when the same options no longer give the same bytes
INFO = dict(version=str(VERSION), year=2020, contributor='apa_mmdet', url='', date_created=DATE)
FINISHED, UNFINISHED = 'tiny_lvis.json', 'tiny_lvis.unfinished.json'  # marks, which hold the options


class MadeDataset(NamedTuple):
    """A data set in ``folder``, ``made`` now or there already; as text, what a tool prints of it.

    Attributes:
        images, instances: their numbers by split.
        classes: number of drawn classes that are r, c and f.
    """

    folder: Path
    made: bool
    images: dict[str, int]
    instances: dict[str, int]
    classes: dict[str, int]

    def __str__(self) -> str:
        if not self.made:
            return f'{self.folder} already holds this data set; nothing to do'
        return (
            f'images     {self.images["train"]} train, {self.images["val"]} val\n'
            f'instances  {self.instances["train"]} train, {self.instances["val"]} val\n'
            f'classes    {", ".join(f"{self.classes[letter]} {name}" for letter, name in GROUPS.items())}\n'
            f'folder     {self.folder}'
        )


def make_tiny_lvis(
    out: str | Path,
    train: int | None = None,
    val: int | None = None,
    size: int | tuple[int, int] | None = None,
    seed: int = 0,
    force: bool = False,
    progress: bool = True,
    form: str = 'tiny_lvis',
) -> MadeDataset:
    """Make the data set in the folder ``out``, unless it is there already.

    The same arguments give the same bytes. An interrupted run is simply started again. Image ``i`` of a split depends
    on ``seed``, the split, ``i``, ``size`` and the classes planned for it, on no other image.

    Args:
        out: folder; gets the files of the format, such as ``annotations/lvis_v1_{train,val}.json``, ``train2017/`` and
            ``val2017/``, and, when all are written, ``tiny_lvis.json`` with the options.
        train, val: numbers of images, 1 or more. With about 40 training images or more (``small_lvis``: 100), every
            class has some.
        size: side of the images in pixels, or (width, height); 64 or more. All three by default those of the format.
        seed: 0 or more.
        force: write even if ``out`` holds something else. Only files of an earlier tiny LVIS are removed.
        progress: show a progress bar.
        form: the format, a key of ``FORMATS``.

    Raises:
        FileExistsError: if ``out`` holds something else and ``force`` is not set.
        NotADirectoryError: if ``out`` is a file.
        ValueError: for an argument out of range, or an unknown format.
    """
    if form not in FORMATS:
        raise ValueError(f'form must be one of {", ".join(FORMATS)}; got {form!r}')
    usual = FORMATS[form].numbers
    train, val, size = (usual[k] if v is None else v for k, v in dict(train=train, val=val, size=size).items())
    out, size = Path(out), (size, size) if isinstance(size, int) else tuple(size)
    if min(train, val) < 1 or min(size) < 64 or seed < 0:
        raise ValueError(
            f'train and val must be 1 or more, size 64 or more, seed 0 or more; got {train}, {val}, {size}, {seed}'
        )
    options = dict(version=VERSION, train=train, val=val, size=list(size), seed=seed)
    if form != 'tiny_lvis':  # whose mark names no format, as when it was the only one
        options['form'] = form
    if not force:
        _check_folder(out, options)
    finished = _read_options(out / FINISHED) == options and all((out / name).is_file() for name in _files(options))
    if made := force or not finished:
        _make(out, options, progress)
    contents = {split: FORMATS[form].read((out / FORMATS[form].files(split)[0]).read_text()) for split in SPLITS}
    images, _ = count(contents['train']['annotations'])
    drawn = [images[FORMATS[form].category_id(k)] for k in range(len(FORMATS[form].vocabulary.names))]
    letters = group_classes(np.array(drawn)).tolist()
    return MadeDataset(
        out,
        made,
        images={split: len(content['images']) for split, content in contents.items()},
        instances={split: len(content['annotations']) for split, content in contents.items()},
        classes={letter: letters.count(letter) for letter in GROUPS},
    )


def _make(out: Path, options: dict, progress: bool) -> None:
    _mark_unfinished(out, options)
    form, seed = _format_of(options), options['seed']
    with tqdm(total=sum(options[split] for split in SPLITS), unit='image', disable=not progress) as bar:
        parts = {split: _draw_split(out, form, split, options, bar) for split in SPLITS}
    categories = form.categories(parts['train'][1])  # of the training split in both files, as in LVIS
    for split, (images, annotations) in parts.items():
        content = dict(
            info=dict(description=f'{form.title}, {split}', **INFO),
            licenses=[dict(id=1, name='Apache License 2.0', url='http://www.apache.org/licenses/LICENSE-2.0')],
            images=images,
            annotations=annotations,
            categories=categories,
        )
        for name, file_content in zip(form.files(split), form.contents(split, content, seed)):
            _write(out / name, file_content)
    (out / UNFINISHED).rename(out / FINISHED)  # last: only a complete set has this mark


def _draw_split(out: Path, form: DatasetFormat, split: str, options: dict, bar: tqdm) -> tuple[list[dict], list[dict]]:
    """Draw and write the images of a split; returns the records of ``images`` and ``annotations``."""
    images, annotations, size, seed = [], [], tuple(options['size']), options['seed']
    for image_id, plan in enumerate(form.plan(split, options[split], seed), 1):
        rng = np.random.default_rng([seed, SPLITS.index(split), image_id - 1])
        image, visible = draw_scene([form.vocabulary.look(c) for c in plan.objects], size, rng, form.views)
        _, jpeg = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 92])
        path = out / form.image_path(split, image_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg.tobytes())
        images.append(form.image(split, image_id, plan, size))
        for k, (category, part) in enumerate(zip(plan.objects, visible)):
            if form.exhaustive or k != plan.dropped:
                annotations.append(form.annotation(len(annotations) + 1, image_id, category, part.polygons))
        bar.update()
    return images, annotations


def _write(path: Path, content: dict | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content, separators=(',', ':')) + '\n')


# The folder and its marks


def _read_options(path: Path) -> dict | None:
    try:
        options = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return options if isinstance(options, dict) else None


def _format_of(options: dict) -> DatasetFormat | None:
    return FORMATS.get(options.get('form', 'tiny_lvis'))


def _files(options: dict) -> Iterator[str]:
    """All files of a data set in its folder, except its mark."""
    form = _format_of(options)
    for split in SPLITS:
        yield from form.files(split)
        yield from (form.image_path(split, i + 1) for i in range(options.get(split, 0)))


def _check_folder(out: Path, options: dict) -> None:
    """Refuse to mix the data set of ``options`` with other files in ``out``."""
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f'{out} is a file, not a folder')
    marks = [o for o in (_read_options(out / FINISHED), _read_options(out / UNFINISHED)) if o is not None]
    if not marks and out.exists() and any(out.iterdir()):
        raise FileExistsError(
            f'{out} is not empty and holds no tiny LVIS: choose another folder, or write into it with --force'
        )
    differing = sorted({k for o in marks for k in {*o, *options} if o.get(k) != options.get(k)})
    if differing:
        raise FileExistsError(
            f'{out} holds a tiny LVIS made with another {", ".join(differing)}: choose another folder, or overwrite it '
            'with --force'
        )


def _mark_unfinished(out: Path, options: dict) -> None:
    """Remove the files of an earlier set that the new one does not have, and mark ``out`` as unfinished.

    In this order: whenever it is interrupted, a mark shows that the folder holds a tiny LVIS.
    """
    out.mkdir(parents=True, exist_ok=True)
    for mark in (out / FINISHED, out / UNFINISHED):
        earlier = _read_options(mark)
        if earlier and _format_of(earlier):  # None: a mark of a later version with more formats
            for name in {*_files(earlier)} - {*_files(options)}:
                (out / name).unlink(missing_ok=True)
    _write(out / UNFINISHED, options)
    (out / FINISHED).unlink(missing_ok=True)

"""A small, drawn, long-tailed instance segmentation data set in LVIS v1's format, or that of another data set.

48 classes: 8 shapes x 6 appearances (``tiny_scenes.py`` draws them). A third of them each is frequent, common
and rare at 800 training images, and every shape and every appearance has frequent, common and rare classes: what
is rare is a combination, so that features learnt from frequent classes help. Validation is drawn uniformly over
the classes instead, so that the AP of rare classes rests on as many objects as the others'. ``tiny_forms.py`` says
how a form of the data set names its files and what it writes about the pictures, which are the same in every form.
"""

import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from .formats import CATEGORIES, FORMS, count, frequency
from .scenes import APPEARANCES, SHAPES, draw_scene

VERSION = 1  # raise it when the same options no longer give the same bytes
OBJECTS = (2, 6)  # fewest and most objects in an image
NEGATIVES = dict(train=8, val=20)  # verified absent classes per image; many in val, so that false positives count
NOT_EXHAUSTIVE = 0.05  # share of images where one of several objects of a class goes without annotation
VAL_CLASSES_PER_IMAGE = 3.8

FINISHED, UNFINISHED = 'tiny_lvis.json', 'tiny_lvis.unfinished.json'


class ImagePlan(NamedTuple):
    """What one image holds, as 0-based class indices, from the back to the front.

    ``dropped`` is the position in ``objects`` of the one that is drawn but not annotated, or None.
    """

    objects: tuple
    dropped: int | None
    negatives: tuple


# ---------------------------------------------------------------- plan: which image holds which classes


def class_ranks():
    """The rank of each class in the long tail, 0 the most frequent, in the order of ``CATEGORIES``.

    Three levels of 16 (frequent, common, rare) are laid over shapes x appearances as a Latin square is, so each
    shape has two classes of each level and each appearance two or three.
    """
    ranks = {}
    for s, shape in enumerate(sorted(SHAPES)):
        for a, appearance in enumerate(sorted(APPEARANCES)):
            ranks[f'{appearance}_{shape}'] = 16 * ((s + a) % 3) + 8 * ((s + a // 3) % 2) + 5 * s % 8
    return np.array([ranks[name] for name in CATEGORIES])


def planned_counts(split, num_images):
    """In how many of ``num_images`` images each class is to appear (before what small sets have no room for)."""
    if split == 'val':
        return np.full(len(CATEGORIES), max(1, round(VAL_CLASSES_PER_IMAGE * num_images / len(CATEGORIES))))
    # Shares of the images at five ranks, geometric in between. LVIS calls a class frequent above 100 images and
    # rare up to 10: at 800 to 1,000 images the thresholds fall on ranks 16 and 32.
    rank, share = [0, 15, 31, 32, 47], [0.26, 0.129, 0.0145, 0.0100, 0.0025]
    ranks = class_ranks()
    counts = np.exp(np.interp(ranks, rank, np.log(share))) * num_images
    counts[ranks >= 36] = np.minimum(counts[ranks >= 36], 10)  # a quarter stays rare however large the set
    return np.maximum(1, counts.round()).astype(int)


def _deal(counts, num_images, rng):
    """Deals the classes to images: ``counts[c]`` different images each, at most ``OBJECTS[1]`` classes an image."""
    dealt = [[] for _ in range(num_images)]
    for category in np.argsort(-counts, kind='stable'):
        free = np.array([OBJECTS[1] - len(d) for d in dealt], float)
        number = min(counts[category], int((free > 0).sum()))
        if number:  # emptier images are likelier, or some would stay empty
            for i in rng.choice(num_images, number, replace=False, p=free**2 / (free**2).sum()):
                dealt[i].append(int(category))
    for empty in [d for d in dealt if not d]:
        empty.append(max(dealt, key=len).pop())
    return dealt


def plan_split(split, num_images, seed):
    """Plans a split, ``'train'`` or ``'val'``: a list of ``num_images`` ``ImagePlan``."""
    rng = np.random.default_rng([seed, _split_number(split)])
    plans = []
    for objects in _deal(planned_counts(split, num_images), num_images, rng):
        classes, dropped = list(objects), None
        hide = rng.random() < NOT_EXHAUSTIVE
        while len(objects) < OBJECTS[0]:
            objects.append(objects[0])
        if len(objects) < OBJECTS[1] and (hide or rng.random() < 0.15):
            objects.append(classes[rng.integers(len(classes))])
        objects = [objects[k] for k in rng.permutation(len(objects))]
        several = [k for k, c in enumerate(objects) if objects.count(c) > 1]
        if hide and several:
            dropped = several[rng.integers(len(several))]
        absent = np.setdiff1d(np.arange(len(CATEGORIES)), classes)
        negatives = np.sort(rng.choice(absent, NEGATIVES[split], replace=False))
        plans.append(ImagePlan(tuple(objects), dropped, tuple(negatives.tolist())))
    return plans


def _split_number(split):
    return ('train', 'val').index(split)


# ---------------------------------------------------------------- pictures


def _draw_split(out, form, split, plans, size, seed, bar):
    """Draws and writes the images of a split; returns the records ``images`` and ``annotations``."""
    (out / form.picture(split, 1)).parent.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for index, plan in enumerate(plans):
        rng = np.random.default_rng([seed, _split_number(split), index])
        names = [CATEGORIES[c].rsplit('_', 1) for c in plan.objects]
        picture, seen = draw_scene([(shape, appearance) for appearance, shape in names], size, rng)
        image_id = index + 1
        _, jpeg = cv2.imencode('.jpg', picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
        (out / form.picture(split, image_id)).write_bytes(jpeg.tobytes())
        images.append(form.image(split, image_id, plan, size))
        for k, (category, part) in enumerate(zip(plan.objects, seen)):
            if form.exhaustive or k != plan.dropped:
                annotations.append(form.annotation(len(annotations) + 1, image_id, category, part.polygons))
        bar.update()
    return images, annotations


# ---------------------------------------------------------------- the folder


def _read_options(path):
    try:
        options = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return options if isinstance(options, dict) else None


def _form(options):
    return FORMS.get(options.get('form', 'tiny_lvis'))


def _files(options):
    """All files of a data set within its folder, except its mark."""
    for split in ('train', 'val'):
        yield from _form(options).files(split)
        yield from (_form(options).picture(split, i + 1) for i in range(options.get(split, 0)))


def _write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content, separators=(',', ':')) + '\n')


def is_finished(out, options):
    """Whether ``out`` holds the whole data set of ``options``."""
    return _read_options(out / FINISHED) == options and all((out / name).is_file() for name in _files(options))


def check_folder(out, options):
    """Raises ``FileExistsError``, in one line, if making ``options`` in ``out`` would mix with or hide other files."""
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f'{out} is a file, not a folder')
    if not out.exists() or not any(out.iterdir()):
        return
    found = [o for o in (_read_options(out / FINISHED), _read_options(out / UNFINISHED)) if o is not None]
    if not found:
        raise FileExistsError(
            f'{out} is not empty and holds no tiny LVIS: name another folder, or write into it with --force'
        )
    differing = sorted({k for o in found for k in {*o, *options} if o.get(k) != options.get(k)})
    if differing:
        raise FileExistsError(
            f'{out} holds a tiny LVIS made with another {", ".join(differing)}: name another '
            'folder, or overwrite it with --force'
        )


def _mark_unfinished(out, options):
    """Marks ``out`` as being made, after removing what an earlier set of ours has and the new one has not.

    In this order, so that whenever it is interrupted, a mark says that the folder is ours.
    """
    out.mkdir(parents=True, exist_ok=True)
    for mark in (out / FINISHED, out / UNFINISHED):
        earlier = _read_options(mark)
        if earlier and _form(earlier):  # no form: a mark of a version that has more of them
            for name in {*_files(earlier)} - {*_files(options)}:
                (out / name).unlink(missing_ok=True)
    _write(out / UNFINISHED, options)
    (out / FINISHED).unlink(missing_ok=True)


def make_tiny_lvis(out, train=800, val=200, size=160, seed=0, force=False, progress=True, form='tiny_lvis'):
    """Makes the data set in the folder ``out``, or does nothing if it is there already.

    The same arguments give the same bytes. A run that was interrupted is simply started again. Image ``i`` of a
    split depends on ``seed``, the split, ``i``, ``size`` and the classes planned for it, on no other image.

    Args:
        out: folder; gets the files of the form, such as ``annotations/lvis_v1_{train,val}.json``, ``train2017/`` and
            ``val2017/``, and, once all is written, ``tiny_lvis.json`` with the options.
        train, val: numbers of images, 1 or more. Every class has images from about 40 training images on.
        size: the images' side in pixels, or (width, height); 64 or more.
        seed: 0 or more.
        force: write even if ``out`` holds something else. Deletes nothing but files of an earlier set of ours.
        progress: show a progress bar.
        form: whose files, records and class names to write, a key of ``FORMS``; the pictures are the same in all.

    Returns:
        A dict: ``made`` (False if it was there already), and per split the numbers of ``images`` and
        ``instances``, ``classes`` (how many are r, c, f).

    Raises:
        FileExistsError: ``out`` holds something else and ``force`` is not set.
        ValueError: an argument out of range, or an unknown form.
    """
    out, size = Path(out), (size, size) if isinstance(size, int) else tuple(size)
    if min(train, val) < 1 or min(size) < 64 or seed < 0:
        raise ValueError(
            f'train and val must be 1 or more, size 64 or more, seed 0 or more; got {train}, {val}, {size}, {seed}'
        )
    if form not in FORMS:
        raise ValueError(f'form must be one of {", ".join(FORMS)}; got {form!r}')
    options = dict(version=VERSION, train=train, val=val, size=list(size), seed=seed)
    if form != 'tiny_lvis':  # of which there are sets from before there were forms, whose marks name none
        options['form'] = form
    if not force:
        check_folder(out, options)
    if made := force or not is_finished(out, options):
        _make(out, options, progress)
    return dict(made=made, **summarize(out, form))


def _make(out, options, progress):
    _mark_unfinished(out, options)
    (out / 'annotations').mkdir(exist_ok=True)
    form, size, seed, parts = _form(options), tuple(options['size']), options['seed'], {}
    with tqdm(total=options['train'] + options['val'], unit='image', disable=not progress) as bar:
        for split in ('train', 'val'):
            plans = plan_split(split, options[split], seed)
            parts[split] = _draw_split(out, form, split, plans, size, seed, bar)
    categories = form.categories(parts['train'][1])  # of the training split in both files, as in LVIS
    for split, (images, annotations) in parts.items():
        content = dict(
            info=dict(
                description=f'{form.title}, {split}',
                version=str(VERSION),
                year=2020,
                contributor='apa_mmdet',
                url='',
                date_created='2020-01-01 00:00:00',
            ),
            licenses=[dict(id=1, name='Apache License 2.0', url='http://www.apache.org/licenses/LICENSE-2.0')],
            images=images,
            annotations=annotations,
            categories=categories,
        )
        for name, text in zip(form.files(split), form.texts(split, content, seed)):
            _write(out / name, text)
    (out / UNFINISHED).rename(out / FINISHED)  # last: only a whole set carries it


def summarize(out, form='tiny_lvis'):
    """Counts what the data set in ``out`` holds: ``images`` and ``instances`` per split, ``classes`` per frequency.

    Among the classes are only those that are drawn.
    """
    result = dict(images={}, instances={})
    for split in ('val', 'train'):
        content = json.loads((Path(out) / FORMS[form].files(split)[0]).read_text())
        result['images'][split] = len(content['images'])
        result['instances'][split] = len(content['annotations'])
    images, _ = count(content['annotations'])
    letters = [frequency(images[FORMS[form].category_id(k)]) for k in range(len(CATEGORIES))]
    return dict(result, classes={f: letters.count(f) for f in 'rcf'})

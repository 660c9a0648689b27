"""Time and memory of the validation of annotation files as large as those of LVIS and V3Det, and of building data sets.

    python benchmarks/annotations.py                                   # LVIS and V3Det, all of train: a minute
    python benchmarks/annotations.py --scale 0.01 --data-sets lvis
    python benchmarks/annotations.py --parts validate build --scale 0.5          # building LVIS needs 8 GiB at 1.0

Files are synthetic, of the sizes of the real ones: LVIS v1 train has 1,270,141 objects of 1,203 classes with some 100
coordinates each in 100,170 images, V3Det train 1,361,181 boxes of 13,204 classes in 183,354 images. They are drawn into
the folder of the results, where a further run finds them. Each part runs in its own process:

- ``validate``: what ``tools/train.py`` does before it starts; ``validate again``: when the file has not changed.
- ``build``: MMDetection's data set class, for LVIS with repeated images; ``build-ours``: ours in its place.
  ``held_mib`` is what its process holds for it. ``WORKERS`` processes then read the annotations of all images:
  ``worker_mib`` is what one of them has for itself, ``shared_mib`` what they share with it, imports included.

``cpu_seconds`` are those of the process, ``peak_mib`` its peak memory, imports included: ``imports_mib``.
"""

import argparse
import contextlib
import io
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import measure
import memory
import numpy as np

WORKERS = 8
SHAPES, WIDTH, HEIGHT = 4096, 640, 480


class Size(NamedTuple):
    images: int
    annotations: int
    classes: int
    coordinates: int  # of a mask


SIZES = dict(lvis=Size(100_170, 1_270_141, 1203, 98), v3det=Size(183_354, 1_361_181, 13_204, 0))


def draw(path: Path, size: Size) -> None:
    """Write annotations; objects take their boxes and masks from a pool."""
    rng = np.random.default_rng(0)
    pool = [_shape(rng, size.coordinates) for _ in range(SHAPES)]
    chance = 1 / np.arange(1, size.classes + 1)
    labels = rng.permutation(size.classes)[rng.choice(size.classes, size.annotations, p=chance / chance.sum())]
    images = np.sort(rng.integers(0, size.images, size.annotations)).tolist()
    shapes, categories = rng.integers(0, SHAPES, size.annotations).tolist(), (labels + 1).tolist()
    lists = dict(neg_category_ids=[1, 2, 3, 4, 5, 6, 7], not_exhaustive_category_ids=[8])
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', encoding='utf-8') as file:
        file.write('{"info": {"year": 2026}, "images": [')
        for i in range(size.images):
            url = f'http://images.cocodataset.org/train2017/{i:012}.jpg'
            record = dict(id=i + 1, width=WIDTH, height=HEIGHT, coco_url=url, file_name=f'{i:012}.jpg', **lists)
            file.write(', ' * (i > 0) + json.dumps(record))
        file.write('], "annotations": [')
        for i, (image, category, shape) in enumerate(zip(images, categories, shapes)):
            comma, ids = ', ' * (i > 0), f'"id": {i + 1}, "image_id": {image + 1}, "category_id": {category}'
            file.write(f'{comma}{{{ids}, {pool[shape]}}}')
        count = size.annotations // size.classes
        records = [dict(id=i + 1, name=name, frequency='f', image_count=count) for i, name in enumerate(_names(size))]
        file.write(f'], "categories": {json.dumps(records)}}}')


def _names(size: Size) -> tuple[str, ...]:
    return tuple(f'class {i}' for i in range(size.classes))


def _shape(rng: np.random.Generator, coordinates: int) -> str:
    """Box, area and, if it has coordinates, the mask of an object, as JSON."""
    points = max(3, int(rng.exponential(coordinates / 2)))
    angle, radius = np.sort(rng.uniform(0, 2 * np.pi, points)), rng.uniform(0.7, 1, (points, 1))
    half = rng.uniform(8, 150, 2)
    center = rng.uniform(half, np.subtract((WIDTH, HEIGHT), half))
    outline = (center + half * radius * np.stack([np.cos(angle), np.sin(angle)], 1)).round(2)
    low, side = outline.min(0), np.ptp(outline, axis=0).round(2)
    record = dict(iscrowd=0, bbox=[*low.tolist(), *side.tolist()], area=round(float(side.prod()) * 0.7, 2))
    if coordinates:
        record['segmentation'] = [outline.ravel().tolist()]
    return json.dumps(record)[1:-1]


# Parts, each in a process of its own


def config(path: Path, data_set: str, ours: bool) -> dict:
    """The data set of a training with the drawn file; its images are never opened."""
    mask = data_set == 'lvis'
    kind = dict(lvis=('LVISV1Dataset', 'SelectiveLVISV1Dataset'), v3det=('V3DetDataset', 'IndexedV3DetDataset'))
    (path.parent / 'names.txt').write_text('\n'.join(_names(SIZES['v3det'])))
    cfg = dict(
        type=kind[data_set][ours],
        data_root=str(path.parent),
        ann_file=path.name,
        data_prefix=dict(img=''),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=[dict(type='LoadAnnotations', with_bbox=True, with_mask=mask, poly2mask=False)],
    )
    if mask:
        cfg['metainfo'] = dict(classes=_names(SIZES[data_set]))
        return dict(type='ClassBalancedDataset', oversample_thr=1e-3, dataset=cfg)
    return dict(cfg, label_file='names.txt')


def validate(path: Path, data_set: str, cache: str) -> dict[str, float]:
    """Time and memory of the validation before a training; stamps are in ``cache``."""
    from mmengine.config import Config

    from apa_mmdet.datasets.validation.validate_config import validate_config

    os.environ['XDG_CACHE_HOME'] = cache
    cfg = Config(dict(train_dataloader=dict(dataset=config(path, data_set, ours=False))))

    def run() -> None:
        report = validate_config(cfg, ['train'], images=None, progress=False)
        assert not report.errors, str(report)

    return timed(run)


def build(path: Path, data_set: str, ours: bool) -> dict[str, float]:
    """Time and memory of a data set of a training, and of its workers."""
    import torch
    from mmdet.registry import DATASETS
    from mmdet.utils import register_all_modules

    import apa_mmdet  # noqa: F401

    register_all_modules()
    built, before = [], _mapped('Pss_Anon')
    row = timed(lambda: built.append(DATASETS.build(config(path, data_set, ours))))
    row['held_mib'] = _mapped('Pss_Anon') - before
    infos = _Infos(built[0])
    warnings.filterwarnings('ignore', 'This DataLoader will create')  # more processes than cores
    options = dict(num_workers=WORKERS, multiprocessing_context='fork', persistent_workers=True)  # as in a training
    loader = torch.utils.data.DataLoader(infos, 64, collate_fn=_last, **options)
    seen = {int(batch[0]): batch[1:] for batch in loader}
    own, shared = np.median(list(seen.values()), axis=0)
    return row | dict(worker_mib=float(own), shared_mib=float(shared) * (WORKERS + 1))


class _Infos:
    """Loads the annotations of an image and reports the memory of the process that does."""

    def __init__(self, dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, float, float]:
        self.dataset.get_data_info(index)
        if index % 512:  # reading the kernel's table takes milliseconds
            return 0, 0.0, 0.0
        own = _mapped('Private_Dirty')
        return os.getpid(), own, _mapped('Pss_Anon') - own


def _last(batch: list[tuple[int, float, float]]) -> np.ndarray:
    return np.array(max(batch))


def _mapped(name: str) -> float:
    """MiB of this process, of one of the kernel's kinds."""
    lines = Path('/proc/self/smaps_rollup').read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(f'{name}:')) / 1024


def timed(run: Callable[[], None]) -> dict[str, float]:
    """Time and peak memory of a call."""
    imports, start, cpu = memory.process_peak(), time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        run()
    seconds = dict(seconds=time.perf_counter() - start, cpu_seconds=time.process_time() - cpu)
    return seconds | dict(imports_mib=imports, peak_mib=memory.process_peak())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ['validate', 'build', 'build-ours']
    parser.add_argument('--data-sets', nargs='+', choices=SIZES, default=list(SIZES), help='default: %(default)s')
    parser.add_argument('--parts', nargs='+', choices=parts, default=parts[:1], help='default: %(default)s')
    parser.add_argument('--scale', type=float, default=1.0, help='of the numbers of images and annotations')
    measure.add_out(parser)
    args = parser.parse_args()
    columns = 'name data_set file_mib seconds cpu_seconds imports_mib peak_mib held_mib worker_mib shared_mib note'
    name = f'annotations_{"_".join(args.parts)}_{"_".join(args.data_sets)}.csv'
    table = measure.Table(args.out / name, measure.environment('cpu'), columns)
    for data_set in args.data_sets:
        images, annotations, *rest = SIZES[data_set]
        size = Size(int(images * args.scale), int(annotations * args.scale), *rest)
        path = (args.out / f'annotations_{data_set}_{size.images}' / 'train.json').absolute()
        if not path.exists():
            print(f'drawing {size.annotations} annotations', flush=True)
            draw(path, size)
        runs = []
        if 'validate' in args.parts:
            os.utime(path, (1e9, 1e9))  # a file that has just been written is read again to make sure
            cache = str(path.parent / f'cache_{time.time_ns()}')
            runs += [(label, validate, (path, data_set, cache)) for label in ('validate', 'validate again')]
        runs += [(part, build, (path, data_set, part == 'build-ours')) for part in parts[1:] if part in args.parts]
        for label, function, arguments in runs:
            row = dict(name=label, data_set=data_set, images=size.images, annotations=size.annotations, note='')
            row['file_mib'] = path.stat().st_size / measure.MIB
            try:
                row |= measure.in_a_process(function, *arguments)
            except Exception as error:  # killed for its memory
                row['note'] = measure.reason(error)
            table.add(**row)
    print(f'written: {table.path}', flush=True)


if __name__ == '__main__':
    main()

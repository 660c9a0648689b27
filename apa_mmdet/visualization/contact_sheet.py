"""Draws a contact sheet: images of a config's data set as its network gets them, with their annotations."""

import math
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import mmcv
import numpy as np
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import TRANSFORMS
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import set_random_seed
from tqdm import tqdm

from apa_mmdet.datasets.image_loader_step import image_loader_step
from apa_mmdet.utils.config import BadConfig, is_classifier, leaves, section
from apa_mmdet.utils.errors import CodedError, in_one_line
from apa_mmdet.utils.registered_classes import builds

from .grid import caption, grid
from .images import as_rgb
from .local_visualizer import MIN_DISPLAY_SIDE, draw, make_visualizer

CHECK = '; to validate the data: python tools/check_dataset.py CONFIG'


class ContactSheet(NamedTuple):
    """The contents of a sheet; ``str`` gives a summary."""

    path: Path
    split: str
    drawn: int
    length: int
    objects: Counter
    classes: int

    def __str__(self) -> str:
        most = ', '.join(f'{name} {count}' for name, count in self.objects.most_common(10))
        most = f': {most}{", …" * (len(self.objects) > 10)}' if most else ''
        return (
            f'data set   {self.split}, {self.length} images an epoch, {self.drawn} shown\n'
            f'objects    {self.objects.total()} of {len(self.objects)} of its {self.classes} classes{most}\n'
            f'sheet      {self.path}'
        )


def browse(
    cfg: Config, out: Path, split: str = 'train', images: int = 16, seed: int = 0, progress: bool = True
) -> ContactSheet:
    """Draws images of a data set, evenly spread over it, on one sheet as its pipeline returns them.

    They are augmented, repeated as often as the data set repeats them, and not yet normalized and padded by the
    ``data_preprocessor``; boxes, masks and names are drawn, of a classifier's images the class.

    Args:
        cfg: config with the loader of ``split``.
        out: file to write, in the format of its suffix; its folder is created.
        split: ``train``, ``val`` or ``test``.
        images: number of images; all, if the data set has fewer.
        seed: of the augmentation.
        progress: show a progress bar.

    Raises:
        FileNotFoundError: if annotations or an image are missing.
        BadConfig: ``no-dataset``, if the config has none for that split.
        CodedError: ``unreadable-dataset``, ``empty-dataset`` or ``unreadable-sample``.
    """
    dataset = _open(cfg, split)
    set_random_seed(seed)
    names = _names(cfg, dataset)
    visualizer = make_visualizer(names)
    drawn, objects = [], Counter()
    indices = np.linspace(0, len(dataset) - 1, min(images, len(dataset))).round().astype(int).tolist()
    for index in tqdm(indices, unit='image', disable=not progress):
        inputs, sample = _load(dataset, index, split)
        title = Path(sample.get('img_path') or f'image {index}').name
        if is_classifier(cfg):
            label = names[int(sample.gt_label)]
            objects[label] += 1
            drawn.append(caption(_enlarged(cfg, inputs), f'{label} · {title}'))
            continue
        objects.update(names[label] for label in sample.gt_instances.get('labels', ()))
        image = draw(visualizer, inputs, sample, sides=(MIN_DISPLAY_SIDE, MIN_DISPLAY_SIDE), draw_pred=False)
        drawn.append(caption(image, title))
    mmcv.imwrite(grid(drawn, columns=math.ceil(math.sqrt(len(drawn)))), str(out))
    return ContactSheet(out, split, len(drawn), len(dataset), objects, len(names))


def _names(cfg: Config, dataset: Any) -> Sequence[str]:
    """The names of the classes; their numbers, where a classifier's data set names none."""
    names = dataset.metainfo.get('classes')
    if names is None and is_classifier(cfg):
        return [f'class {label}' for label in range(int(dataset.get_gt_labels().max()) + 1)]
    return names


def _enlarged(cfg: Config, image: np.ndarray) -> np.ndarray:
    """An image of a classifier as BGR, of a longer side of at least ``MIN_DISPLAY_SIDE``."""
    if not (cfg.model.get('data_preprocessor') or {}).get('to_rgb', False):  # it was RGB, and was taken for BGR
        image = image[..., ::-1]
    factor = max(1.0, MIN_DISPLAY_SIDE / max(image.shape[:2]))
    return mmcv.imrescale(image[..., ::-1], factor, interpolation='nearest')


def _open(cfg: Config, split: str) -> Any:
    """Builds the data set of a split, with its wrappers."""
    dataset_cfg = deepcopy(section(cfg, f'{split}_dataloader').get('dataset'))
    if not dataset_cfg:
        raise BadConfig('no-dataset', f'the config has no data set for {split}')
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    what = f'the data set for {split}'
    with in_one_line('unreadable-dataset', f'{what} cannot be read', FileNotFoundError, CHECK):
        for leaf in leaves(dataset_cfg):
            leaf['pipeline'] = _annotations_early(leaf.get('pipeline', ()))
        dataset = DATASETS.build(dataset_cfg)
        size = len(dataset)
    if not size:
        raise CodedError('empty-dataset', f'{what} has no image, or its filter_cfg removes all{CHECK}')
    return dataset


def _annotations_early(pipeline: Sequence[dict]) -> list[dict]:
    """A pipeline that loads annotations right behind the image, so that transforms apply to both.

    Test pipelines load them last, as metrics need them unchanged.
    """
    loader = image_loader_step(pipeline)
    return sorted(pipeline, key=lambda step: 0 if step is loader else 2 - builds(step, LoadAnnotations, TRANSFORMS))


def _load(dataset: Any, index: int, split: str) -> tuple[np.ndarray, Any]:
    """Loads an image as RGB, 0 to 255, whatever its channels and type, and its sample."""
    with in_one_line('unreadable-sample', f'image {index} of {split} cannot be loaded', FileNotFoundError, CHECK):
        data = dataset[index]
    return as_rgb(data['inputs'].permute(1, 2, 0).numpy()), data['data_samples']

"""Draws a contact sheet: images of a config's data set as its network gets them, with their annotations."""

import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import mmcv
import numpy as np
import torch
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import DATASETS, TRANSFORMS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from tqdm import tqdm

from apa_mmdet.utils.errors import one_line

from .grid import caption, grid
from .local_visualizer import MIN_DISPLAY_SIDE, draw, make_visualizer

CHECK = 'to validate the data: python tools/check_dataset.py CONFIG'


class ContactSheet(NamedTuple):
    """The contents of a sheet; ``str`` gives a summary."""

    path: Path
    split: str
    drawn: int
    length: int
    objects: Counter
    classes: int

    def __str__(self) -> str:
        number = self.objects.total()
        most = ', '.join(f'{name} {count}' for name, count in self.objects.most_common(10))
        return '\n'.join(
            [
                f'data set   {self.split}, {self.length} images an epoch, {self.drawn} shown',
                f'objects    {number} of {len(self.objects)} of its {self.classes} classes'
                + (f': {most}{", …" * (len(self.objects) > 10)}' if number else ''),
                f'sheet      {self.path}',
            ]
        )


def browse(
    cfg: Config, out: Path, split: str = 'train', images: int = 16, seed: int = 0, progress: bool = True
) -> ContactSheet:
    """Draws images of a data set, evenly spread over it, on one sheet as its pipeline returns them.

    They are augmented, repeated as often as the data set repeats them, and not yet normalized and padded by the
    ``data_preprocessor``; boxes, masks and names are drawn.

    Args:
        cfg: config with the loader of ``split``.
        out: file to write, in the format of its suffix; its folder is created.
        split: ``train``, ``val`` or ``test``.
        images: number of images; all, if the data set has fewer.
        seed: of the augmentation.
        progress: show a progress bar.

    Raises:
        FileNotFoundError: if annotations or an image are missing.
        ValueError: if the config has no such data set, or it cannot be read.
    """
    dataset = _open(cfg, split)
    set_random_seed(seed)
    names = dataset.metainfo['classes']
    visualizer = make_visualizer(names)
    drawn, objects = [], Counter()
    indices = np.linspace(0, len(dataset) - 1, min(images, len(dataset))).round().astype(int).tolist()
    for index in tqdm(indices, unit='image', disable=not progress):
        inputs, sample = _load(dataset, index, split)
        instances = sample.gt_instances
        objects.update(names[label] for label in instances.get('labels', ()))
        image = draw(visualizer, inputs, sample, sides=(MIN_DISPLAY_SIDE, MIN_DISPLAY_SIDE), draw_pred=False)
        drawn.append(caption(image, Path(sample.get('img_path', '')).name))
    mmcv.imwrite(grid(drawn, columns=math.ceil(math.sqrt(len(drawn)))), str(out))
    return ContactSheet(out, split, len(drawn), len(dataset), objects, len(names))


def _open(cfg: Config, split: str) -> Any:
    """Builds the data set of a split, with its wrappers."""
    dataset_cfg = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
    if not dataset_cfg:
        raise ValueError(f'the config has no data set for {split}')
    init_default_scope(cfg.get('default_scope') or 'mmdet')
    try:
        dataset = DATASETS.build(_annotations_first(dataset_cfg))
        if not len(dataset):
            raise ValueError('it has no image, or its filter_cfg removes all')
    except FileNotFoundError:
        raise
    except Exception as error:  # mmdet raises errors of any class
        raise ValueError(f'the data set for {split} is empty or cannot be read: {one_line(error)}; {CHECK}') from None
    return dataset


def _annotations_first(node: Any) -> Any:
    """Moves the loading of annotations right behind that of the image, so that transforms apply to both.

    Test pipelines load them last, as metrics need them unchanged.
    """
    if isinstance(node, (list, tuple)):
        return type(node)(_annotations_first(part) for part in node)
    if not isinstance(node, dict):
        return node
    node = {key: _annotations_first(value) for key, value in node.items()}
    steps = node.get('pipeline')
    if steps:
        loaders = [step for step in steps if _loads_annotations(step)]
        others = [step for step in steps if step not in loaders]
        first = next((i for i, step in enumerate(others) if 'LoadImage' in str(step.get('type'))), -1) + 1
        node['pipeline'] = others[:first] + loaders + others[first:]
    return node


def _loads_annotations(step: dict) -> bool:
    transform = TRANSFORMS.get(step['type']) if isinstance(step['type'], str) else step['type']
    return isinstance(transform, type) and issubclass(transform, LoadAnnotations)


def _load(dataset: Any, index: int, split: str) -> tuple[np.ndarray, Any]:
    """Loads an image in RGB, 0 to 255, and its sample."""
    try:
        data = dataset[index]
    except FileNotFoundError:
        raise
    except Exception as error:  # a pipeline is a program
        raise ValueError(f'image {index} of {split} cannot be loaded: {one_line(error)}; {CHECK}') from None
    inputs = data['inputs'].clamp(0, 255).to(torch.uint8)  # some pipelines return float32
    return np.ascontiguousarray(inputs.permute(1, 2, 0).numpy()[..., ::-1]), data['data_samples']

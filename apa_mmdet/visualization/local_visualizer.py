"""Draws annotations and predictions so that a person can read them."""

import warnings
from collections.abc import Sequence
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from matplotlib.transforms import Bbox
from mmdet.registry import VISUALIZERS
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmdet.visualization.palette import get_palette
from mmengine.logging import MMLogger
from mmengine.structures import InstanceData

from apa_mmdet.structures.best_class import SAME_OBJECT_IOU, best_class_of_each_object

from .fonts import ADVICE, families_for

MIN_DISPLAY_SIDE = 480  # pixels; smaller images are enlarged to it, or names would not be legible
MAX_DISPLAY_SIDE = 1600  # larger images are reduced to it: lines and letters do not grow with the image
MASK_ALPHA = 0.2  # of the fill of a mask: at 0.4 a yellow object under a blue mask is green


@VISUALIZERS.register_module()
class LegibleVisualizer(DetLocalVisualizer):
    """mmdet's visualizer, made for people to read: by any number of classes, in any script, on crowded images.

    - Each object is shown as its best class: of predictions whose boxes are nearly equal, that with the highest score.
    - Masks are outlined and lightly filled, so that the color of an object is seen.
    - Names neither overlap nor leave the image. Letters that matplotlib's default font lacks, as those of Chinese,
      Japanese and Korean, are drawn in an installed font that has them; where none has, the class is shown by its
      number, and the log says so.
    - A palette that is shorter than the classes, as COCO's 80 colors, is continued with random colors.

    Args:
        same_object_iou: overlap above which boxes are taken for one object; None shows every prediction.
        alpha: opacity of boxes and outlines.
        name, args, kwargs: of ``DetLocalVisualizer``.

    Example::

        visualizer = dict(type='LegibleVisualizer')  # in a config, over mmdet's
    """

    def __init__(
        self,
        name: str = 'visualizer',
        *args: Any,
        same_object_iou: float | None = SAME_OBJECT_IOU,
        alpha: float = 0.8,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, *args, alpha=alpha, **kwargs)
        self.same_object_iou = same_object_iou

    @property
    def dataset_meta(self) -> dict | None:
        """Classes and palette; of several data sets, those of the first: the classes are the model's."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict | list[dict] | None) -> None:
        self._dataset_meta = dataset_meta[0] if isinstance(dataset_meta, (list, tuple)) else dataset_meta

    def set_image(self, image: np.ndarray) -> None:
        super().set_image(image)
        self._taken: list[Bbox] = []

    def _draw_instances(
        self, image: np.ndarray, instances: InstanceData, classes: Sequence[str] | None, palette: Any
    ) -> np.ndarray:
        if 'scores' in instances and 'bboxes' in instances and self.same_object_iou is not None:
            instances = best_class_of_each_object(instances, self.same_object_iou)
        names = instances.get('label_names') or [classes[label] if classes else '' for label in instances.labels]
        families, missing = families_for(frozenset(''.join([*(classes or ()), *names])))
        if missing:
            self._warn(missing)
            instances = instances[:]  # a copy: the caller keeps its names
            instances.label_names = [
                f'class {label}' if missing & set(name) else name for name, label in zip(names, instances.labels)
            ]
        self._families = [*families]
        count = max([len(classes or ()), *(int(label) + 1 for label in instances.labels)])
        return super()._draw_instances(image, instances, classes, _continued(palette, count))

    def _warn(self, missing: frozenset[str]) -> None:
        if missing != getattr(self, '_warned', None):
            self._warned = missing
            MMLogger.get_current_instance().warning(
                f'no installed font has {len(missing)} letters of the class names, e.g. {min(missing)}: images show '
                f'numbers of classes instead of these names; {ADVICE}'
            )

    def draw_texts(self, texts: str, positions: torch.Tensor, **kwargs) -> 'LegibleVisualizer':
        """As mmdet's, for one text, which is moved to the left, and up or down, to free space."""
        kwargs['font_sizes'] = max(8, int(0.0075 * max(self.width, self.height)))
        super().draw_texts(texts, positions, font_families=[self._families], **kwargs)
        text = self.ax_save.texts[-1]
        box = text.get_window_extent(self.fig_save_canvas.get_renderer()).padded(2)  # y goes up
        box = box.translated(min(0, self.width - box.x1), 0)
        box = box.translated(max(0, -box.x0), 0)
        steps = sorted(range(-int(box.y0 / box.height * 2), int((self.height - box.y1) / box.height * 2) + 1), key=abs)
        places = (box.translated(0, step * box.height / 2) for step in steps)  # the nearest first
        box = next((place for place in places if not place.count_overlaps(self._taken)), box)
        text.set_position((box.x0 + 2, self.height - box.y1 + 2))
        self._taken.append(box)
        return self

    def draw_binary_masks(self, binary_masks: np.ndarray, colors: Any, alphas: Any = None) -> 'LegibleVisualizer':
        """As mmdet's, with a light fill whatever ``alphas`` is, which is that of the outline."""
        return super().draw_binary_masks(binary_masks, colors, alphas=MASK_ALPHA)


def _continued(palette: Any, count: int) -> Any:
    """A palette of at least ``count`` colors; of one that is a name, mmdet makes as many as it needs or has."""
    if palette in ('coco', 'citys', 'voc'):
        try:
            return get_palette(palette, count)
        except AssertionError:
            palette = list(get_palette(palette, 0))
    if isinstance(palette, list) and len(palette) < count:
        return [*palette, *get_palette('random', count)[len(palette) :]]
    return palette


def make_visualizer(
    classes: Sequence[str], palette='random', same_object_iou: float | None = SAME_OBJECT_IOU
) -> LegibleVisualizer:
    visualizer = LegibleVisualizer.get_instance('legible', line_width=2)
    visualizer.same_object_iou = same_object_iou
    visualizer.dataset_meta = dict(classes=tuple(classes), palette=palette)
    return visualizer


def draw(
    visualizer: DetLocalVisualizer,
    image: np.ndarray,
    sample: DetDataSample,
    sides: tuple[int, int] = (MIN_DISPLAY_SIDE, MAX_DISPLAY_SIDE),
    **options,
) -> np.ndarray:
    """Draws a sample on its image: ground truth, predictions, or both side by side.

    Args:
        image: height x width x 3, RGB, 0 to 255.
        sample: boxes and masks in pixels of ``image``; it is not changed.
        sides: range of the longer side of the result, to which the image is enlarged or reduced.
        options: of ``DetLocalVisualizer.add_datasample``, e.g. ``pred_score_thr``.

    Returns:
        The drawn image in BGR, for ``mmcv.imwrite``.
    """
    longer = max(image.shape[:2])
    factor = min(max(longer, sides[0]), sides[1]) / longer
    image = mmcv.imrescale(image, factor, interpolation='bicubic' if factor > 1 else 'area')
    sample = sample.clone()
    for field in ('gt_instances', 'pred_instances'):
        if field in sample:
            sample.set_field(_rescale(sample.get(field).clone(), factor, image.shape[:2]), field)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', '.*is out of bounds')  # boxes at the edge
        visualizer.add_datasample('', image, sample, **options)
    return np.ascontiguousarray(visualizer.get_image()[..., ::-1])


def _rescale(instances: InstanceData, factor: float, shape: tuple[int, int]) -> InstanceData:
    if 'bboxes' in instances:
        instances.bboxes = torch.as_tensor(getattr(instances.bboxes, 'tensor', instances.bboxes)) * factor
    if 'masks' in instances:
        masks = instances.masks
        masks = masks.to_ndarray() if hasattr(masks, 'to_ndarray') else np.asarray(masks)  # ground truth; predictions
        resized = [cv2.resize(m.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST) for m in masks]
        instances.masks = torch.from_numpy(np.array(resized, bool).reshape(-1, *shape))
    return instances

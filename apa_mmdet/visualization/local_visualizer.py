"""Draws annotations and predictions large enough for their names to be read."""

import warnings
from collections.abc import Sequence

import cv2
import mmcv
import numpy as np
import torch
from matplotlib.transforms import Bbox
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData

MIN_DISPLAY_SIDE = 480  # pixels; smaller images are enlarged to it, or names would not be legible
MAX_DISPLAY_SIDE = 1600  # larger images are reduced to it: lines and letters do not grow with the image


class LegibleVisualizer(DetLocalVisualizer):
    """mmdet's visualizer with names that neither overlap nor leave the image, and masks that objects show through."""

    def set_image(self, image: np.ndarray) -> None:
        super().set_image(image)
        self._taken: list[Bbox] = []

    def draw_texts(self, texts: str, positions: torch.Tensor, **kwargs) -> 'LegibleVisualizer':
        """As mmdet's, for one text, which is moved to the left, and up or down, to free space."""
        kwargs['font_sizes'] = max(8, int(0.0075 * max(self.width, self.height)))
        super().draw_texts(texts, positions, **kwargs)
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


def make_visualizer(classes: Sequence[str], palette='random') -> LegibleVisualizer:
    visualizer = LegibleVisualizer.get_instance('legible', alpha=0.4, line_width=2)
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

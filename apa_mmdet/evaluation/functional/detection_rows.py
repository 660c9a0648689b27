"""Detections of a test in one array, 54 bytes each; masks stay on disk."""

from typing import Protocol

import numpy as np
from mmengine.logging import MMLogger

from .prediction_store import Prediction, PredictionError, PredictionFiles

IOU_TYPES = ('bbox', 'segm')  # columns of scores and counts: masks may have scores of their own
# image is a position among the sorted ids, category one that the collector gives; file, offset and length say where
# the mask is
ROW = np.dtype(
    [
        ('image', 'i4'),
        ('category', 'i4'),
        ('box', 'f4', 4),
        ('scores', 'f4', 2),
        ('counts', '?', 2),
        ('file', 'i4'),
        ('offset', 'i8'),
        ('length', 'i8'),
    ]
)


class AnnotatedImages(Protocol):
    """What is needed to know of the annotations: their file, and the images by id."""

    path: str
    imgs: dict[int, dict]


def check_belongs(prediction: Prediction, ground_truth: AnnotatedImages, categories: int) -> None:
    """Check that a prediction is of an image of the annotations, and its labels are below the number of categories.

    Raises:
        PredictionError: ``unknown-image`` or ``unknown-label``.
    """
    image, path = f'image {prediction.image_id}', ground_truth.path
    if prediction.image_id not in ground_truth.imgs:
        raise PredictionError(
            'unknown-image',
            f'{image} was tested, but is not in the annotations ({path}): does ann_file belong to the tested data?',
        )
    low, high = prediction.labels.min(initial=0), prediction.labels.max(initial=0)
    if low < 0 or high >= categories:
        raise PredictionError(
            'unknown-label',
            f'{image}: label {low if low < 0 else high} was predicted, but the annotations have {categories} '
            f'categories ({path})',
        )


class DetectionRows:
    """Collects predictions, image by image.

    Args:
        ground_truth: the annotations.
        predictions: the files whose predictions are added.
        masks: whether masks are evaluated: then each prediction needs some.
        categories: for each label, what is stored as ``category``.

    Attributes:
        image_of: position of an image among the sorted ids.
        mask_sizes: height and width of the masks of an image, by its position.
    """

    def __init__(
        self, ground_truth: AnnotatedImages, predictions: PredictionFiles, masks: bool, categories: np.ndarray
    ) -> None:
        self.ground_truth, self.predictions, self.masks, self.categories = ground_truth, predictions, masks, categories
        self.image_ids = sorted(ground_truth.imgs)
        self.image_of = {number: i for i, number in enumerate(self.image_ids)}
        self.mask_sizes: dict[int, tuple[int, int]] = {}
        self._parts: list[np.ndarray] = []

    def add(self, prediction: Prediction) -> None:
        """Add the prediction of an image, for which :func:`check_belongs` has been called.

        Raises:
            PredictionError: ``missing-masks``.
        """
        if not len(prediction.labels):
            return
        if self.masks and prediction.masks is None:
            raise PredictionError(
                'missing-masks',
                f"image {prediction.image_id}: its prediction has no masks, which metric 'segm' compares",
            )
        image, masks = self.image_of[prediction.image_id], prediction.masks
        rows = np.zeros(len(prediction.labels), ROW)
        rows['image'], rows['category'] = image, self.categories[prediction.labels]
        rows['box'], rows['file'] = prediction.boxes, prediction.file
        rows['scores'] = np.stack([prediction.scores, prediction.mask_scores], axis=1)
        rows['counts'] = True
        if self.masks:
            rows['offset'], rows['length'] = masks.offsets, masks.lengths
            self.mask_sizes[image] = masks.size
        self._parts.append(self._select(rows, prediction))

    def _select(self, rows: np.ndarray, prediction: Prediction) -> np.ndarray:
        """The rows of an image that are kept."""
        return rows

    @property
    def rows(self) -> np.ndarray:
        """All detections that may count, as :data:`ROW`, in the order in which they were added."""
        if len(self._parts) != 1:
            self._parts = [np.concatenate([np.zeros(0, ROW), *self._parts])]
        return self._parts[0]

    def report_mask_sizes(self) -> None:
        """Log images whose masks have another size than annotated: they overlap with nothing, which lowers AP."""
        images = {position: self.ground_truth.imgs[self.image_ids[position]] for position in self.mask_sizes}
        wrong = [i['id'] for k, i in images.items() if self.mask_sizes[k] != (i['height'], i['width'])]
        if wrong:
            MMLogger.get_current_instance().warning(
                f'{self.ground_truth.path}: the predicted masks of {len(wrong)} images, e.g. {wrong[0]}, have another '
                'size than the image in the annotations, and match nothing'
            )

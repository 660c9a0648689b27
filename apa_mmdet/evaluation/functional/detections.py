"""The detections that count in LVIS's average precision, in a few arrays; masks stay on disk.

LVIS annotates an image for some categories only. Detections of the others count neither as right nor as wrong there,
and are dropped while reading; for fixed AP they are dropped after the best of each category have been taken.
"""

import numpy as np
from lvis import LVIS
from mmengine.logging import MMLogger

from .prediction_store import Prediction, PredictionError, PredictionFiles

MAX_PER_IMAGE = 300  # detections, as in lvis
IOU_TYPES = ('bbox', 'segm')  # columns of scores and counts: masks may have scores of their own
# image and category are positions among the sorted ids; file, offset and length say where the mask is
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


class Detections:
    """Collects predictions, image by image, in rows of 54 bytes a detection.

    Args:
        ground_truth: the annotations.
        predictions: the files whose predictions are added.
        masks: whether masks are evaluated: then each prediction needs some.
        topk: count the best detections of each category in all images instead of the best 300 of each image.

    Attributes:
        image_of: position of an image among the sorted ids.
        mask_sizes: height and width of the masks of an image, by its position.
    """

    def __init__(self, ground_truth: LVIS, predictions: PredictionFiles, masks: bool, topk: int | None = None) -> None:
        self.ground_truth, self.predictions, self.masks, self.topk = ground_truth, predictions, masks, topk
        self.image_ids, self.category_ids = sorted(ground_truth.imgs), sorted(ground_truth.cats)
        self.mask_sizes: dict[int, tuple[int, int]] = {}
        self.image_of = {number: i for i, number in enumerate(self.image_ids)}
        self._ids, self._parts = np.array(list(ground_truth.cats), np.int64), []  # categories of label 0, 1, …
        self._positions = np.searchsorted(self.category_ids, self._ids)
        # the categories of which it is known whether they are in an image
        self._verified = {number: set(image['neg_category_ids']) for number, image in ground_truth.imgs.items()}
        for annotation in ground_truth.dataset['annotations']:
            if annotation['area'] > 0:
                self._verified[annotation['image_id']].add(annotation['category_id'])

    def add(self, prediction: Prediction) -> None:
        """Add the prediction of an image.

        Raises:
            PredictionError: ``unknown-image``, ``unknown-label`` or ``missing-masks``.
        """
        if not len(prediction.labels):
            return
        self._check(prediction)
        image, masks, ids = self.image_of[prediction.image_id], prediction.masks, self._ids[prediction.labels]
        rows = np.zeros(len(ids), ROW)
        rows['image'], rows['category'] = image, self._positions[prediction.labels]
        rows['box'], rows['file'] = prediction.boxes, prediction.file
        rows['scores'] = np.stack([prediction.scores, prediction.mask_scores], axis=1)
        rows['counts'] = np.isin(ids, list(self._verified[prediction.image_id]))[:, None]
        if self.masks:
            rows['offset'], rows['length'] = masks.offsets, masks.lengths
            self.mask_sizes[image] = masks.size
        if not self.topk:
            ranked = np.argsort(-rows['scores'], axis=0, kind='stable')
            np.put_along_axis(rows['counts'], ranked[MAX_PER_IMAGE:], False, axis=0)
            rows = rows[rows['counts'].any(1)]
        self._parts.append(rows)

    def _check(self, prediction: Prediction) -> None:
        image, path = f'image {prediction.image_id}', self.ground_truth.path
        if prediction.image_id not in self.image_of:
            raise PredictionError(
                'unknown-image',
                f'{image} was tested, but is not in the annotations ({path}): does ann_file belong to the tested data?',
            )
        low, high = prediction.labels.min(), prediction.labels.max()
        if low < 0 or high >= len(self._ids):
            raise PredictionError(
                'unknown-label',
                f'{image}: label {low if low < 0 else high} was predicted, but the annotations have '
                f'{len(self._ids)} categories ({path})',
            )
        if self.masks and prediction.masks is None:
            raise PredictionError(
                'missing-masks', f"{image}: its prediction has no masks, which metric 'segm' compares"
            )

    @property
    def rows(self) -> np.ndarray:
        """All detections that may count, as :data:`ROW`, in the order in which they were added."""
        if len(self._parts) != 1:
            self._parts = [np.concatenate([np.zeros(0, ROW), *self._parts])]
        return self._parts[0]

    def by_category(self, iou_type: str) -> list[np.ndarray]:
        """For each category, in the order of the ids, the positions of its ``rows`` that count."""
        rows, column = self.rows, IOU_TYPES.index(iou_type)
        order = np.arange(len(rows))
        if self.topk:
            ranked = np.lexsort((-rows['scores'][:, column], rows['category']))
            category = rows['category'][ranked]
            rank = np.arange(len(rows)) - np.searchsorted(category, category)
            order = np.sort(ranked[rank < self.topk])
        order = order[rows['counts'][order, column]]
        order = order[np.argsort(rows['category'][order], kind='stable')]
        return np.split(order, np.searchsorted(rows['category'][order], np.arange(1, len(self.category_ids))))

    def report_mask_sizes(self) -> None:
        """Log images whose masks have another size than annotated: they overlap with nothing, which lowers AP."""
        images = {position: self.ground_truth.imgs[self.image_ids[position]] for position in self.mask_sizes}
        wrong = [i['id'] for k, i in images.items() if self.mask_sizes[k] != (i['height'], i['width'])]
        if wrong:
            MMLogger.get_current_instance().warning(
                f'{self.ground_truth.path}: the predicted masks of {len(wrong)} images, e.g. {wrong[0]}, have another '
                'size than the image in the annotations, and match nothing'
            )

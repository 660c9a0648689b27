"""The detections that count in LVIS's average precision.

LVIS annotates an image for some categories only. Detections of the others count neither as right nor as wrong there,
and are dropped while reading; for fixed AP they are dropped after the best of each category have been taken.
"""

import numpy as np
from lvis import LVIS

from .detection_rows import IOU_TYPES, DetectionRows
from .prediction_store import Prediction, PredictionFiles

MAX_PER_IMAGE = 300  # detections, as in lvis


class LVISDetections(DetectionRows):
    """Collects predictions, image by image; ``category`` of a row is a position among the sorted ids.

    Args:
        ground_truth: the annotations.
        predictions: the files whose predictions are added.
        masks: whether masks are evaluated: then each prediction needs some.
        topk: count the best detections of each category in all images instead of the best 300 of each image.
    """

    def __init__(self, ground_truth: LVIS, predictions: PredictionFiles, masks: bool, topk: int | None = None) -> None:
        self.topk, self.category_ids = topk, sorted(ground_truth.cats)
        self._ids = np.array(list(ground_truth.cats), np.int64)  # categories of label 0, 1, …
        super().__init__(ground_truth, predictions, masks, np.searchsorted(self.category_ids, self._ids))
        # the categories of which it is known whether they are in an image
        self._verified = {number: set(image['neg_category_ids']) for number, image in ground_truth.imgs.items()}
        for annotation in ground_truth.dataset['annotations']:
            if annotation['area'] > 0:
                self._verified[annotation['image_id']].add(annotation['category_id'])

    def _select(self, rows: np.ndarray, prediction: Prediction) -> np.ndarray:
        verified = np.isin(self._ids[prediction.labels], list(self._verified[prediction.image_id]))
        rows['counts'] = verified[:, None]
        if not self.topk:
            ranked = np.argsort(-rows['scores'], axis=0, kind='stable')
            np.put_along_axis(rows['counts'], ranked[MAX_PER_IMAGE:], False, axis=0)
            rows = rows[rows['counts'].any(1)]
        return rows

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

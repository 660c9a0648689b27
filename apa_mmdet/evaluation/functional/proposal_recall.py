"""Recall of class-agnostic proposals."""

from collections.abc import Callable, Sequence

import numpy as np
from mmdet.evaluation import eval_recalls, print_recall_summary
from mmdet.evaluation.functional.recall import set_recall_param
from mmengine.logging import MMLogger

from .prediction_store import Prediction


class ProposalRecall:
    """As mmdet's ``eval_recalls``, which fails (NumPy ≥ 1.24) where images differ in their number of boxes.

    Args:
        objects_of: the boxes of an image, given by its id, each x y width height.
        total: objects in all images.
        proposal_nums: how many of an image's boxes, in their order, count; one recall for each.
        iou_thrs: thresholds of the overlap, over which recall is averaged.
    """

    def __init__(
        self,
        objects_of: Callable[[int], Sequence],
        total: int,
        proposal_nums: Sequence[int],
        iou_thrs: float | Sequence[float],
    ) -> None:
        self.objects_of, self.total = objects_of, total
        self.counts, self.thresholds = set_recall_param(proposal_nums, iou_thrs)
        self.hits = np.zeros((len(self.counts), len(self.thresholds)))

    def add(self, prediction: Prediction) -> None:
        """Count the objects of an image that are found."""
        boxes = self.objects_of(prediction.image_id)
        if len(boxes):
            objects = np.array(boxes, np.float64)
            objects[:, 2:] += objects[:, :2]
            one_image = [objects.astype(np.float32)], [prediction.boxes]
            self.hits += np.rint(eval_recalls(*one_image, self.counts, self.thresholds, 'silent') * len(objects))

    def summarize(self) -> dict[str, float]:
        """``AR@n`` for each n of ``proposal_nums``; NaN without any object."""
        recalls = self.hits / (self.total or np.nan)
        print_recall_summary(recalls, self.counts, self.thresholds, logger=MMLogger.get_current_instance())
        return {f'AR@{count}': recall for count, recall in zip(self.counts.tolist(), recalls.mean(axis=1))}

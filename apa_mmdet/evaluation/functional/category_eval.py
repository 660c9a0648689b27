"""Matching and counting of one category by faster-coco-eval, which is imported with this file (0.1 s)."""

from typing import Any

from faster_coco_eval import COCO, COCOeval_faster


class CategoryEval(COCOeval_faster):
    """Ignores what lvis ignores; faster-coco-eval ignores crowds instead.

    Args:
        ground_truth: images, the category and its annotations, in COCO's form.
        detections: of the category, in COCO's form; all of them count.
        iou_type: 'bbox' or 'segm'.
    """

    def __init__(self, ground_truth: dict[str, Any], detections: list[dict], iou_type: str) -> None:
        truth = COCO(ground_truth)
        options = dict(lvis_style=True, rle_iou_max_workers=1)  # few masks an image and category: threads would wait
        super().__init__(truth, truth.loadRes(detections), iou_type, **options)
        self.params.maxDets = [max(1, len(detections))]

    def _prepare(self) -> None:
        marks = [int(bool(annotation.get('ignore'))) for annotation in self.cocoGt.dataset['annotations']]
        super()._prepare()
        for annotation, mark in zip(self.cocoGt.dataset['annotations'], marks):
            annotation['ignore'] = mark

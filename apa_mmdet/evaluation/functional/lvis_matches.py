"""The matches that LVIS's average precision is computed from.

:mod:`.lvis_eval` has faster-coco-eval match and count in one go, which does not hand its matches out. Here they are
made by :func:`.coco_matching.match`, under lvis's rules: no crowds, objects marked ``ignore`` do not count, neither do
false detections of a category in an image that is not annotated exhaustively for it, and what has no area is skipped.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from .category_matches import MASKS, CategoryMatches, Shapes, by_category, match_category
from .coco_ground_truth import OBJECT, compressed_mask
from .detection_rows import IOU_TYPES
from .lvis_detections import LVISDetections
from .prediction_store import as_xywh


class LvisObjects:
    """The annotations of ``LVISDetections`` as arrays.

    Attributes:
        objects: annotations with an area, as :data:`OBJECT`: ``label`` is a position among the sorted ids.
        ignored: of each ``number``, whether its annotation is marked ``ignore``.
        not_exhaustive: by label, the positions of the images that are not annotated exhaustively.
    """

    def __init__(self, detections: LVISDetections) -> None:
        truth, image_of = detections.ground_truth, detections.image_of
        label_of = {number: label for label, number in enumerate(detections.category_ids)}
        self._images = [truth.imgs[number] for number in detections.image_ids]
        self._annotations = [a for a in truth.dataset['annotations'] if a['area'] > 0]
        self.objects = np.zeros(len(self._annotations), OBJECT)
        self.objects['image'] = [image_of[a['image_id']] for a in self._annotations]
        self.objects['label'] = [label_of[a['category_id']] for a in self._annotations]
        self.objects['box'] = np.array([a['bbox'] for a in self._annotations], float).reshape(-1, 4)
        self.objects['area'] = [a['area'] for a in self._annotations]
        self.objects['number'] = np.arange(len(self._annotations))
        self.ignored = np.array([bool(a.get('ignore')) for a in self._annotations], bool)
        self.not_exhaustive: list[list[int]] = [[] for _ in label_of]
        for position, image in enumerate(self._images):
            for number in image['not_exhaustive_category_ids']:
                if number in label_of:
                    self.not_exhaustive[label_of[number]].append(position)

    def mask(self, number: int, image: int) -> dict:
        """The compressed RLE of an annotation; ``image``: the position of its image."""
        return compressed_mask(self._annotations[number]['segmentation'], self._images[image])


def match_lvis(
    detections: LVISDetections, iou_type: str, thresholds: Sequence[float]
) -> Iterator[tuple[int, CategoryMatches]]:
    """The position of each category that has objects, among the sorted ids, and its matches.

    Args:
        detections: those of a whole test, without ``topk``.
        iou_type: 'bbox' or 'segm'.
        thresholds: of the overlap.
    """
    annotations, rows = LvisObjects(detections), detections.rows
    boxes = np.array(as_xywh(rows['box'])).reshape(-1, 4)
    rows = rows[rows['counts'][:, IOU_TYPES.index(iou_type)] & (boxes[:, 2] * boxes[:, 3] > 0)]
    categories = by_category(rows, annotations.objects, iou_type, len(detections.category_ids), np.inf)
    with detections.predictions.open_masks() as read_mask:
        for k, category in enumerate(categories):
            if len(category.objects):
                shapes = Shapes(annotations, detections, category, read_mask if iou_type == MASKS else None)
                unknown = np.isin(category.rows['image'], annotations.not_exhaustive[k])
                ignored = annotations.ignored[category.objects['number']]
                yield k, match_category(category, shapes, thresholds, ignored, unknown)

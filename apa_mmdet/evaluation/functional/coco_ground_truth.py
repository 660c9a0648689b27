"""Annotations in COCO's format, as arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils

from apa_mmdet.datasets.annotations.columns import Annotations
from apa_mmdet.datasets.annotations.reading import read_annotations
from apa_mmdet.datasets.annotations.segmentations import plain
from apa_mmdet.datasets.validation.annotations import check_coco_ground_truth, check_images_and_categories
from apa_mmdet.utils.findings import Findings

OBJECT = np.dtype(
    [('image', 'i4'), ('label', 'i4'), ('box', 'f8', 4), ('area', 'f8'), ('crowd', '?'), ('number', 'i8')]
)


class CocoGroundTruth:
    """A validated annotation file.

    Args:
        path: the file.
        classes: names of the categories that are evaluated; None: all.
        masks: whether masks are compared; only then each annotation needs one.
        evaluated: whether it is evaluated with. Otherwise only its images and categories are read.
        sort_categories: labels follow the ids of the categories instead of the order in the file, as in Objects365.

    Attributes:
        imgs: images by id.
        categories: those of label 0, 1, ….
        objects: annotations of the categories as :data:`OBJECT`, in the order of the file: ``image`` is a position
            among the sorted ids, ``number`` one in ``segmentations``.
        segmentations: those of all annotations, as :func:`plain` takes them; empty without ``masks``.

    Raises:
        ValidationError: at the first fault; it names the file, the records and the key.
    """

    def __init__(
        self,
        path: str,
        classes: Sequence[str] | None = None,
        masks: bool = True,
        evaluated: bool = True,
        sort_categories: bool = False,
    ) -> None:
        self.path = path
        content, findings = read_annotations(path), Findings(path, strict=True)
        if evaluated:
            annotations = check_coco_ground_truth(content, findings, masks)
        else:
            check_images_and_categories(content, findings)
            annotations = Annotations.of([])
        self.imgs: dict[int, dict] = {image['id']: image for image in content['images']}
        self._sorted_ids = sorted(self.imgs)
        names = set(classes or ())
        self.categories = [c for c in content['categories'] if not names or c['name'] in names]
        if sort_categories:
            self.categories.sort(key=lambda category: category['id'])
        self.segmentations = annotations.segmentations if masks else []
        self._read(annotations)

    def _read(self, annotations: Annotations) -> None:
        label_of = {category['id']: label for label, category in enumerate(self.categories)}
        position_of = {number: i for i, number in enumerate(self._sorted_ids)}
        objects = np.zeros(len(annotations), OBJECT)
        objects['image'] = [position_of[number] for number in annotations.image_ids.tolist()]
        objects['label'] = [label_of.get(number, -1) for number in annotations.category_ids.tolist()]
        objects['box'], objects['area'] = annotations.boxes, annotations.areas
        objects['crowd'] = [bool(flag) for flag in annotations.iscrowd]
        objects['number'] = np.arange(len(annotations))
        self.objects = objects[objects['label'] >= 0]
        # for the recall of proposals, which counts objects of all categories
        ignored = np.array([bool(flag) for flag in annotations.ignore], bool) | objects['crowd']
        single = objects[~ignored]
        self._single = single[np.argsort(single['image'], kind='stable')]
        self._position_of = position_of

    def get_cat_ids(self) -> list[int]:
        """Of label 0, 1, …."""
        return [category['id'] for category in self.categories]

    @property
    def single_objects(self) -> int:
        """Annotations of all categories that are neither crowds nor marked ``ignore``."""
        return len(self._single)

    def single_boxes(self, image_id: int) -> np.ndarray:
        """The boxes (n, 4) of those of an image."""
        position = self._position_of.get(image_id, -1)
        low, high = np.searchsorted(self._single['image'], [position, position + 1])
        return self._single['box'][low:high]

    def mask(self, number: int, image: int) -> dict[str, Any]:
        """The compressed RLE of an annotation; ``image``: the position of its image."""
        return compressed_mask(self.segmentations[number], self.imgs[self._sorted_ids[image]])


def compressed_mask(segmentation: Any, image: dict[str, Any]) -> dict[str, Any]:
    """The compressed RLE of an annotation: of polygons, runs or a compressed RLE, as :func:`plain` takes them."""
    segmentation, height, width = plain(segmentation), int(image['height']), int(image['width'])
    if isinstance(segmentation, list):
        return mask_utils.merge(mask_utils.frPyObjects(segmentation, height, width))
    if isinstance(segmentation['counts'], list):
        return mask_utils.frPyObjects(segmentation, height, width)
    return segmentation

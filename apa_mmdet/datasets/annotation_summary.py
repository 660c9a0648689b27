"""What an annotation file holds, in the numbers by which a training is set up."""

from collections.abc import Sequence
from itertools import compress
from typing import Any, NamedTuple

import numpy as np

from apa_mmdet.utils.findings import Findings

from .annotations.records import class_image_pairs, collect_records
from .annotations.segmentations import plain, usual_polygons
from .lvis_form import URL


class AnnotationSummary(NamedTuple):
    """Numbers of an annotation file. Crowds are no instances.

    Attributes:
        names: of the categories, in the file's order.
        dataset: class of MMDetection that reads the file, ``CocoDataset``, ``LVISV1Dataset`` or ``LVISV05Dataset``.
        images: their number.
        instances: their number in each category.
        class_images: images in which each category has an instance.
        pairs: category and image, by position, of each instance, every pair once, (2, N).
        most_objects: instances of the image that has most.
        masked: share of the instances that have a mask.
        sides: width and height of each image, (N, 2).
        object_sides: √(width · height) of each box, in units of the short side of its image.
        paths: of the images, as the data set joins them to its folder.
    """

    names: list[str]
    dataset: str
    images: int
    instances: np.ndarray
    class_images: np.ndarray
    pairs: np.ndarray
    most_objects: int
    masked: float
    sides: np.ndarray
    object_sides: np.ndarray
    paths: list[Any]

    @property
    def is_lvis(self) -> bool:
        """Whether it is in LVIS's form, in which labels number all categories of the file."""
        return self.dataset != 'CocoDataset'

    @property
    def annotated(self) -> int:
        """Images with an instance."""
        return len(np.unique(self.pairs[1]))

    def repeats(self, threshold: float) -> int:
        """Images of an epoch under MMEngine's ``ClassBalancedDataset``, of those with an instance.

        An image is repeated ⌈max √(threshold / f_c)⌉ times, at least once, over its classes c of image frequency f_c
        (arXiv:1908.03195).
        """
        share = self.class_images / max(self.annotated, 1)
        factors = np.sqrt(np.divide(threshold, share, out=np.ones_like(share), where=share > 0)).clip(1)
        of_image = np.zeros(self.images)
        np.maximum.at(of_image, self.pairs[1], factors[self.pairs[0]])
        return int(np.ceil(of_image).sum())


def summarize_annotations(content: dict, findings: Findings) -> AnnotationSummary | None:
    """Count what is in the ``content`` of an annotation file.

    Records that cannot be used are added to ``findings``; None if nothing is left.
    """
    records = collect_records(content, findings)
    names = [category['name'] for category in records.categories]
    annotations = records.annotations
    single = records.single & (records.image >= 0) & (records.category >= 0)
    if not single.any():
        if len(annotations) and not findings:
            findings.add('no-training-instance')
        return None
    category, image = records.category[single], records.image[single]
    pairs = class_image_pairs(category, image, len(records.images))
    masks = compress(annotations.segmentations, single)
    masked = [bool(usual_polygons(mask) or plain(mask)) for mask in masks]  # nearly all are usual
    sides = np.array([(i['width'], i['height']) for i in records.images], float)
    dataset = _dataset_of(records.images)
    return AnnotationSummary(
        names,
        dataset,
        len(sides),
        np.bincount(category, minlength=len(names)),
        np.bincount(pairs[0], minlength=len(names)),
        pairs,
        int(np.bincount(image).max()),
        float(np.mean(masked)),
        sides,
        np.sqrt(annotations.boxes[single, 2:].clip(0).prod(1)) / sides[image].min(1),
        [_path_of(i, dataset) for i in records.images],
    )


def _dataset_of(images: Sequence[dict]) -> str:
    """LVIS's where an image lists the categories that are absent from it."""
    if not any('neg_category_ids' in image for image in images):
        return 'CocoDataset'
    return 'LVISV1Dataset' if all('coco_url' in image for image in images) else 'LVISV05Dataset'


def _path_of(image: dict, dataset: str) -> Any:
    if dataset == 'LVISV1Dataset':
        return str(image['coco_url']).replace(URL, '')
    name = image.get('file_name')
    is_coco = dataset == 'LVISV05Dataset' and isinstance(name, str) and name.startswith('COCO')
    return name[-16:] if is_coco else name  # COCO's old names end with the number

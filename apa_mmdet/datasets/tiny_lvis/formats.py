"""Formats of the drawn data sets: the file names, categories and records of several data sets.

A format is a class here and a row of ``FORMATS``. ``generate.py`` draws the images and asks the format for their file
names and records. Where a data set has more classes than are drawn, these take the place of its first ones and the
others exist by name only, so that a config of the data set runs unchanged.

In this file ``k`` is the 0-based index of a class, ``split`` is ``'train'`` or ``'val'``, and ``content`` is that of an
annotation file: a dict of ``info``, ``licenses``, ``images``, ``annotations``, ``categories``.
"""

import json
from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np
from mmdet import datasets
from pycocotools import mask as mask_utils

from apa_mmdet.datasets.frequency_groups import group_classes

from .plan import ImagePlan, plan_objects, plan_split
from .scenes import ALONE, CROWDED, SCENE, Views
from .vocabularies import SMALL, TINY, Vocabulary

DATE = '2020-01-01 00:00:00'  # of all images


def count(annotations: Sequence[dict]) -> tuple[Counter, Counter]:
    """Number of images and number of instances by category id."""
    images = Counter(c for c, _ in {(a['category_id'], a['image_id']) for a in annotations})
    return images, Counter(a['category_id'] for a in annotations)


class DatasetFormat:
    """What all formats share; a subclass sets the attributes and overrides what differs.

    Attributes:
        title: of the data set, for ``info``.
        folder: default output folder of the tool.
        annotations: path of the annotation file of a split in the folder.
        images: path of an image in the folder.
        location: the fields of an image's record from which a reader derives its path.
        exhaustive: whether every object is annotated, or some are not, as in LVIS.
        vocabulary: the classes that are drawn.
        dataset: mmdet's class of the data set whose class names it has; None for those that are drawn only.
        views: how much the objects vary.
        numbers: of images by split, and the side of an image, unless the user names others.
    """

    title: str
    folder: str
    annotations: str
    images = '{split}2017/{image_id:012d}.jpg'
    location = dict(file_name='{image_id:012d}.jpg')
    exhaustive = False
    vocabulary: Vocabulary = TINY
    dataset: str | None = None
    views: Views = SCENE
    numbers = dict(train=800, val=200, size=160)

    def plan(self, split: str, num_images: int, seed: int) -> list[ImagePlan]:
        """The content of each image of a split."""
        return plan_split(split, num_images, seed, self.vocabulary)

    def names(self) -> tuple[str, ...]:
        """The names of all classes; the first ones are drawn."""
        if self.dataset is None:
            return self.vocabulary.names
        return getattr(datasets, self.dataset).METAINFO['classes']

    def category_id(self, k: int) -> int:
        return k + 1

    def image_path(self, split: str, image_id: int) -> str:
        return self.images.format(split=split, image_id=image_id)

    def files(self, split: str) -> list[str]:
        """The files that are written beside the images."""
        return [self.annotations.format(split=split)]

    def contents(self, split: str, content: dict, seed: int) -> list[dict | str]:
        """Contents of ``files(split)``: dicts are written as JSON, strings as they are."""
        return [content]

    def read(self, text: str) -> dict:
        """``images`` and ``annotations`` of the first of ``files(split)``; the inverse of :meth:`contents`."""
        return json.loads(text)

    def image(self, split: str, image_id: int, plan: ImagePlan, size: tuple[int, int]) -> dict:
        """The record of an image of ``size`` (width, height)."""
        location = {key: path.format(split=split, image_id=image_id) for key, path in self.location.items()}
        record = dict(id=image_id, width=size[0], height=size[1], license=1, date_captured=DATE)
        return dict(record, **location)

    def annotation(self, annotation_id: int, image_id: int, k: int, polygons: Sequence[np.ndarray]) -> dict:
        """The record of an object of class ``k``, visible within ``polygons``: (N, 2) arrays, in pixels."""
        polygons = [p.round(2) for p in polygons]
        points = np.concatenate(polygons)
        low, high = points.min(0), points.max(0)
        return dict(
            id=annotation_id,
            image_id=image_id,
            category_id=self.category_id(k),
            bbox=[round(float(v), 2) for v in (*low, *(high - low))],
            area=round(sum(cv2.contourArea(p.astype(np.float32)) for p in polygons), 2),
            segmentation=[[round(float(v), 2) for v in p.reshape(-1)] for p in polygons],
        )

    def categories(self, annotations: Sequence[dict]) -> list[dict]:
        """The records of all classes; ``annotations`` are those of the training split, for formats that count.

        ``drawn`` names what is drawn for a class of another name.
        """
        records = [dict(id=self.category_id(k), name=name) for k, name in enumerate(self.names())]
        for record, drawn in zip(records, self.vocabulary.names):
            if record['name'] != drawn:
                record['drawn'] = drawn
        return records


class TinyLVIS(DatasetFormat):
    """LVIS v1 with the drawn classes only, under their own names."""

    title, folder = 'tiny LVIS', 'data/tiny_lvis'
    annotations = 'annotations/lvis_v1_{split}.json'
    # mmdet's LVISV1Dataset takes the path that follows the host
    location = dict(coco_url=f'http://images.cocodataset.org/{DatasetFormat.images}', flickr_url='')

    def image(self, split: str, image_id: int, plan: ImagePlan, size: tuple[int, int]) -> dict:
        dropped = [] if plan.dropped is None else [plan.objects[plan.dropped]]
        return dict(
            super().image(split, image_id, plan, size),
            neg_category_ids=[self.category_id(k) for k in plan.negatives],
            not_exhaustive_category_ids=[self.category_id(k) for k in dropped],
        )

    def categories(self, annotations: Sequence[dict]) -> list[dict]:
        images, instances = count(annotations)
        records = super().categories(annotations)
        letters = group_classes(np.array([images[record['id']] for record in records])).tolist()
        for k, (record, letter) in enumerate(zip(records, letters)):
            record['synset'], record['synonyms'] = f'{record["name"]}.n.01', [record['name']]
            record['frequency'] = letter
            record['image_count'], record['instance_count'] = images[record['id']], instances[record['id']]
            record['def'] = self.vocabulary.define(k) if k < len(self.vocabulary.names) else 'never drawn'
        return records


class SmallLVIS(TinyLVIS):
    """LVIS v1 with a longer tail, of classes that look alike."""

    title, folder, vocabulary = 'small LVIS', 'data/small_lvis', SMALL
    views = CROWDED
    numbers = dict(train=4000, val=1000, size=128)


class LVISV1(TinyLVIS):
    """LVIS v1 with its 1,203 classes."""

    title, folder, dataset = 'tiny LVIS as LVIS v1', 'data/tiny_lvis_v1', 'LVISV1Dataset'


class LVISV05(TinyLVIS):
    """LVIS v0.5 with its 1,230 classes."""

    title, folder, dataset = 'tiny LVIS as LVIS v0.5', 'data/tiny_lvis_v0.5', 'LVISV05Dataset'
    annotations = 'annotations/lvis_v0.5_{split}.json'
    # v0.5 kept the names of COCO 2014, of which mmdet's LVISV05Dataset takes the last 16 characters
    location = dict(file_name='COCO_{split}2014_{image_id:012d}.jpg')


class COCO(DatasetFormat):
    """COCO 2017 with its 80 classes and their ids."""

    title, folder, dataset = 'tiny LVIS as COCO', 'data/tiny_coco', 'CocoDataset'
    annotations = 'annotations/instances_{split}2017.json'
    exhaustive = True
    ids: Sequence[int] = sorted({*range(1, 91)} - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})  # COCO does not use these

    def category_id(self, k: int) -> int:
        return self.ids[k]

    def annotation(self, annotation_id: int, image_id: int, k: int, polygons: Sequence[np.ndarray]) -> dict:
        return dict(super().annotation(annotation_id, image_id, k, polygons), iscrowd=0)


class V3Det(COCO):
    """V3Det with 13,204 classes, as boxes; and its training split with masks as if found by SAM, some missing.

    A quarter of the instances have no mask there: half of these lack the key, half have an empty list.
    """

    title, folder = 'tiny LVIS as V3Det', 'data/tiny_v3det'
    annotations = 'annotations/v3det_2023_v1_{split}.json'
    images = 'images/{split}/{image_id:012d}.jpg'
    location = dict(file_name=images)
    ids = range(1, 13205)

    def names(self) -> tuple[str, ...]:
        drawn = self.vocabulary.names
        return drawn + tuple(f'slot_{i:05d}' for i in self.ids[len(drawn) :])

    def annotation(self, annotation_id: int, image_id: int, k: int, polygons: Sequence[np.ndarray]) -> dict:
        record = super().annotation(annotation_id, image_id, k, polygons)
        _, _, width, height = record['bbox']
        return dict(record, area=round(width * height, 2))  # of the box: there are no masks to measure

    def files(self, split: str) -> list[str]:
        more = ['annotations/v3det_2023_v1_train_sam.json', 'annotations/category_name_13204_v3det_2023_v1.txt']
        return super().files(split) + (more if split == 'train' else [])

    def contents(self, split: str, content: dict, seed: int) -> list[dict | str]:
        boxes = [{k: v for k, v in a.items() if k != 'segmentation'} for a in content['annotations']]
        contents = [dict(content, annotations=boxes)]
        if split == 'train':
            masked = dict(content, annotations=self._with_masks(content, boxes, seed))
            contents += [masked, '\n'.join(self.names()) + '\n']
        return contents

    def _with_masks(self, content: dict, boxes: Sequence[dict], seed: int) -> list[dict]:
        height, width = content['images'][0]['height'], content['images'][0]['width']  # the same of all images
        lots = np.random.default_rng([seed, 2]).permutation(len(boxes))  # 0 and 1 seed the plans of the splits
        masked = []
        for lot, a, box in zip(lots, content['annotations'], boxes):
            mask = mask_utils.merge(mask_utils.frPyObjects(a['segmentation'], height, width))
            mask = dict(size=[height, width], counts=mask['counts'].decode())
            masked.append(box if lot % 8 == 0 else dict(box, segmentation=[] if lot % 8 == 1 else mask))
        return masked


class Objects(DatasetFormat):
    """The drawn classes in the folders and lists of ImageNet-1K: one object an image, as many of each class."""

    title, folder = 'tiny LVIS objects', 'data/tiny_objects'
    annotations, images = 'meta/{split}.txt', '{split}/{name}/{image_id:012d}.jpg'
    location: dict[str, str] = {}
    exhaustive = True
    views = ALONE
    numbers = dict(train=9600, val=960, size=64)

    def plan(self, split: str, num_images: int, seed: int) -> list[ImagePlan]:
        return plan_objects(num_images, self.vocabulary)

    def image_path(self, split: str, image_id: int) -> str:
        names = self.vocabulary.names  # they take turns, as planned: the path has to follow from the number
        return self.images.format(split=split, image_id=image_id, name=names[(image_id - 1) % len(names)])

    def contents(self, split: str, content: dict, seed: int) -> list[dict | str]:
        prefix = len(f'{split}/')  # the data set looks in the folder of its split
        lines = [
            f'{self.image_path(split, a["image_id"])[prefix:]} {a["category_id"] - 1}' for a in content['annotations']
        ]
        return ['\n'.join(lines) + '\n']

    def read(self, text: str) -> dict:
        labels = [int(line.rsplit(' ', 1)[1]) for line in text.splitlines()]
        images = [dict(id=i) for i in range(1, len(labels) + 1)]
        return dict(
            images=images,
            annotations=[
                dict(image_id=image['id'], category_id=self.category_id(k)) for image, k in zip(images, labels)
            ],
        )


class SmallObjects(Objects):
    """The classes of the small LVIS, likewise."""

    title, folder, vocabulary = 'small LVIS objects', 'data/small_objects', SMALL
    numbers = dict(train=14400, val=1440, size=64)


FORMATS: dict[str, DatasetFormat] = {
    'tiny_lvis': TinyLVIS(),
    'lvis_v1': LVISV1(),
    'lvis_v0.5': LVISV05(),
    'coco': COCO(),
    'v3det': V3Det(),
    'imagenet': Objects(),
    'small_lvis': SmallLVIS(),
    'small_objects': SmallObjects(),
}

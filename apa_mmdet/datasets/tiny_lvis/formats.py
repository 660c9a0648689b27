"""Forms of the tiny LVIS: the same scenes under the file names, categories and records of several data sets.

A form is a class here and a row of ``FORMS``. ``tiny_lvis.py`` draws the pictures and asks the form what to call
them and what to write about them. Where a data set has more classes than the 48 that are drawn, its first 48 are
drawn and the others are there by name alone, so that a config made for the data set runs as it is.

In this file ``k`` is the 0-based index of a class, ``split`` is ``'train'`` or ``'val'``, and ``content`` is what
COCO's and LVIS's annotation files hold: a dict of ``info``, ``licenses``, ``images``, ``annotations``, ``categories``.
"""

from collections import Counter

import cv2
import numpy as np
from pycocotools import mask as mask_utils

from .scenes import APPEARANCES, SHAPES

CATEGORIES = tuple(sorted(f'{appearance}_{shape}' for appearance in APPEARANCES for shape in SHAPES))  # the drawn ones


def frequency(image_count: int) -> str:
    """LVIS's letter for a class with ``image_count`` training images: r(are), c(ommon) or f(requent)."""
    return 'r' if image_count <= 10 else 'c' if image_count <= 100 else 'f'


def count(annotations: list):
    """How many images and how many instances each category id has: two ``Counter``."""
    images = Counter(c for c, _ in {(a['category_id'], a['image_id']) for a in annotations})
    return images, Counter(a['category_id'] for a in annotations)


def _mmdet_classes(dataset):
    from mmdet import datasets  # not above: it takes seconds and torch, which the drawing does without

    return getattr(datasets, dataset).METAINFO['classes']


def _definition(k):
    if k >= len(CATEGORIES):
        return 'never drawn'
    surface, colour, shape = CATEGORIES[k].split('_')
    return f'a {colour} {surface} {shape}'


class Form:
    """What all forms share; a subclass fills in the attributes and overrides what differs.

    ``pictures`` and ``annotations`` are the paths of a picture and of a split's annotations within the folder of
    the data set. ``exhaustive`` says whether every object is annotated, or some are left out as in LVIS.
    """

    title: str
    folder: str  # where the tool puts it unless told otherwise
    annotations: str
    pictures = '{split}2017/{image_id:012d}.jpg'
    exhaustive = False

    def names(self) -> tuple:
        """The names of all classes, the drawn ones first."""
        return CATEGORIES

    def category_id(self, k: int) -> int:
        return k + 1

    def picture(self, split: str, image_id: int) -> str:
        return self.pictures.format(split=split, image_id=image_id)

    def files(self, split: str) -> list:
        """The files written beside the pictures."""
        return [self.annotations.format(split=split)]

    def texts(self, split: str, content: dict, seed: int) -> list:
        """What ``files(split)`` hold: dicts to be written as JSON, or strings."""
        return [content]

    def location(self, split: str, image_id: int) -> dict:
        """The part of an image's record that the reader finds the picture by."""
        return dict(file_name=f'{image_id:012d}.jpg')

    def image(self, split: str, image_id: int, plan, size: tuple) -> dict:
        """The record of the picture of the ``ImagePlan`` ``plan``, (width, height) large."""
        return dict(
            id=image_id,
            width=size[0],
            height=size[1],
            license=1,
            date_captured='2020-01-01 00:00:00',
            **self.location(split, image_id),
        )

    def annotation(self, annotation_id: int, image_id: int, k: int, polygons: list) -> dict:
        """The record of an object of class ``k`` seen within ``polygons``, [(N, 2) arrays, in pixels]."""
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

    def categories(self, annotations: list) -> list:
        """The records of all classes; ``annotations`` are those of the training split, for forms that count.

        ``drawn`` says what is seen of a class, where its name does not.
        """
        records = [dict(id=self.category_id(k), name=name) for k, name in enumerate(self.names())]
        for record, drawn in zip(records, CATEGORIES):
            if record['name'] != drawn:
                record['drawn'] = drawn
        return records


# ---------------------------------------------------------------- LVIS


class TinyLVIS(Form):
    """LVIS v1 with no classes but the drawn ones, under names of their own."""

    title, folder = 'tiny LVIS', 'data/tiny_lvis'
    annotations = 'annotations/lvis_v1_{split}.json'

    def location(self, split, image_id):
        # mmdet's LVISV1Dataset finds the file by what follows the host
        return dict(coco_url=f'http://images.cocodataset.org/{self.picture(split, image_id)}', flickr_url='')

    def image(self, split, image_id, plan, size):
        dropped = [] if plan.dropped is None else [plan.objects[plan.dropped]]
        return dict(
            super().image(split, image_id, plan, size),
            neg_category_ids=[self.category_id(k) for k in plan.negatives],
            not_exhaustive_category_ids=[self.category_id(k) for k in dropped],
        )

    def categories(self, annotations):
        images, instances = count(annotations)
        records = []
        for k, record in enumerate(super().categories(annotations)):
            image_count, name = images[record['id']], record['name']
            records.append(
                dict(
                    record,
                    synset=f'{name}.n.01',
                    synonyms=[name],
                    frequency=frequency(image_count),
                    image_count=image_count,
                    instance_count=instances[record['id']],
                    **{'def': _definition(k)},
                )
            )
        return records


class LVISV1(TinyLVIS):
    """LVIS v1 with its 1,203 classes."""

    title, folder = 'tiny LVIS as LVIS v1', 'data/tiny_lvis_v1'

    def names(self):
        return _mmdet_classes('LVISV1Dataset')


class LVISV05(TinyLVIS):
    """LVIS v0.5 with its 1,230 classes."""

    title, folder = 'tiny LVIS as LVIS v0.5', 'data/tiny_lvis_v0.5'
    annotations = 'annotations/lvis_v0.5_{split}.json'

    def names(self):
        return _mmdet_classes('LVISV05Dataset')

    def location(self, split, image_id):
        # v0.5 kept the names of COCO 2014, of which mmdet's LVISV05Dataset takes the last 16 characters
        return dict(file_name=f'COCO_{split}2014_{image_id:012d}.jpg')


# ---------------------------------------------------------------- exhaustively annotated


class COCO(Form):
    """COCO 2017 with its 80 classes and their ids."""

    title, folder = 'tiny LVIS as COCO', 'data/tiny_coco'
    annotations = 'annotations/instances_{split}2017.json'
    exhaustive = True
    ids = sorted({*range(1, 91)} - {12, 26, 29, 30, 45, 66, 68, 69, 71, 83})  # given up before COCO was published

    def names(self):
        return _mmdet_classes('CocoDataset')

    def category_id(self, k):
        return self.ids[k]

    def annotation(self, annotation_id, image_id, k, polygons):
        return dict(super().annotation(annotation_id, image_id, k, polygons), iscrowd=0)


class V3Det(COCO):
    """V3Det with 13,204 classes, as boxes; and the training split with masks as if found by SAM, some missing.

    A quarter of the instances have no mask there: half of these lack the key, half have an empty list.
    """

    title, folder = 'tiny LVIS as V3Det', 'data/tiny_v3det'
    annotations = 'annotations/v3det_2023_v1_{split}.json'
    pictures = 'images/{split}/{image_id:012d}.jpg'
    ids = range(1, 13205)

    def names(self):
        return CATEGORIES + tuple(f'slot_{i:05d}' for i in self.ids[len(CATEGORIES) :])

    def location(self, split, image_id):
        return dict(file_name=self.picture(split, image_id))

    def annotation(self, annotation_id, image_id, k, polygons):
        record = super().annotation(annotation_id, image_id, k, polygons)
        _, _, width, height = record['bbox']
        return dict(record, area=round(width * height, 2))  # all that boxes tell

    def files(self, split):
        more = ['annotations/v3det_2023_v1_train_sam.json', 'annotations/category_name_13204_v3det_2023_v1.txt']
        return super().files(split) + (more if split == 'train' else [])

    def texts(self, split, content, seed):
        boxes = [{k: v for k, v in a.items() if k != 'segmentation'} for a in content['annotations']]
        texts = [dict(content, annotations=boxes)]
        if split == 'train':
            texts += [dict(content, annotations=self._masked(content, boxes, seed)), '\n'.join(self.names()) + '\n']
        return texts

    def _masked(self, content, boxes, seed):
        height, width = content['images'][0]['height'], content['images'][0]['width']  # all are of one size
        lots = np.random.default_rng([seed, 2]).permutation(len(boxes))  # 0 and 1 are the plans of the splits
        masked = []
        for lot, a, box in zip(lots, content['annotations'], boxes):
            mask = mask_utils.merge(mask_utils.frPyObjects(a['segmentation'], height, width))
            mask = dict(size=[height, width], counts=mask['counts'].decode())
            masked.append(box if lot % 8 == 0 else dict(box, segmentation=[] if lot % 8 == 1 else mask))
        return masked


FORMS = {'tiny_lvis': TinyLVIS(), 'lvis_v1': LVISV1(), 'lvis_v0.5': LVISV05(), 'coco': COCO(), 'v3det': V3Det()}

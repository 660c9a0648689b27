"""Splits an annotation file into a training and a validation part, by images."""

import hashlib
from collections import Counter
from typing import Any, NamedTuple

from apa_mmdet.utils.errors import CodedError

from .annotations.class_measurement import count_categories
from .frequency_groups import group_classes


class Split(NamedTuple):
    """The contents of two annotation files, and the classes that are only in training images."""

    train: dict[str, Any]
    val: dict[str, Any]
    only_trained: list[str]


def split_annotations(content: dict, share: float, path: str) -> Split:
    """Split annotations in COCO's or LVIS's form.

    The images are taken in the order of a hash of their ``file_name`` (LVIS: ``coco_url``), the same on every machine
    and however the file is ordered; records of one name stay together. An image goes to the validation unless that
    would leave one of its classes without a training image, until the validation has ``share`` of the images, or a
    little less. Both parts keep all categories; ``image_count``, ``instance_count`` and ``frequency``, where the file
    has them, become those of the training part.

    Args:
        content: of the file ``path``, with valid records.
        share: of the images, in (0, 1).

    Raises:
        CodedError: ``nothing-to-hold-out``, if no image can be spared for the validation.
    """
    categories_of: dict[Any, set] = {image['id']: set() for image in content['images']}
    for annotation in content['annotations']:
        if not annotation.get('iscrowd'):
            categories_of[annotation['image_id']].add(annotation['category_id'])
    groups: dict[str, list[dict]] = {}
    for image in content['images']:
        groups.setdefault(str(image.get('coco_url') or image.get('file_name')), []).append(image)
    shown = {name: {c for image in group for c in categories_of[image['id']]} for name, group in groups.items()}
    left = Counter(category for categories in shown.values() for category in categories)
    wanted, held_out = max(1, round(share * len(content['images']))), set()
    for name in sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest()):
        group = groups[name]
        if len(held_out) + len(group) <= wanted and all(left[category] > 1 for category in shown[name]):
            held_out.update(image['id'] for image in group)
            left.subtract(shown[name])
    if not held_out & {image for image, categories in categories_of.items() if categories}:
        raise CodedError(
            'nothing-to-hold-out',
            f'{path}: no image can be spared for a validation: each has the only object of a class; annotate more '
            'images, or give others by --val',
        )
    train, val = (_part(content, held_out, is_val) for is_val in (False, True))
    if any('frequency' in category for category in content['categories']):
        _renew_frequencies(train, val, path)
    names = {category['id']: category['name'] for category in content['categories']}
    validated = {category for image in held_out for category in categories_of[image]}
    return Split(train, val, [names[category] for category in names if category in left and category not in validated])


def _part(content: dict, held_out: set, is_val: bool) -> dict[str, Any]:
    return dict(
        content,
        images=[image for image in content['images'] if (image['id'] in held_out) == is_val],
        annotations=[a for a in content['annotations'] if (a['image_id'] in held_out) == is_val],
    )


def _renew_frequencies(train: dict, val: dict, path: str) -> None:
    images, instances = count_categories(train, path)
    groups = group_classes(images)
    categories = [
        dict(category, image_count=int(i), instance_count=int(n), frequency=str(group))
        for category, i, n, group in zip(train['categories'], images, instances, groups)
    ]
    train['categories'] = val['categories'] = categories

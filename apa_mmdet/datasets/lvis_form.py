"""Annotations in COCO's form as LVIS has them."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .frequency_groups import ClassCounts, count_classes, group_classes

URL = 'http://images.cocodataset.org/'  # which LVISV1Dataset takes off to get a file name


def as_lvis(
    content: dict, path: str, negatives: Mapping[int, Iterable[int]] | None = None, counts: ClassCounts | None = None
) -> dict[str, Any]:
    """Annotations in LVIS's form.

    Categories get ``image_count``, ``instance_count`` and ``frequency``; images ``neg_category_ids``,
    ``not_exhaustive_category_ids`` and a ``coco_url``, from which LVISV1Dataset takes ``file_name``. LVIS has no
    crowds: they are left out, and their category is not exhaustive in their image, so that further detections of it
    count neither as right nor as wrong.

    Args:
        content: of an annotation file in COCO's form.
        path: of the file, for errors.
        negatives: for ids of images, the ids of categories verified to be absent; an image that is not named has none.
            None: all categories that are not annotated in an image, as in COCO, where all objects are annotated.
        counts: of the categories, in their order, as those of the training; default: of ``content``.

    Raises:
        ValidationError: if records are damaged.
        ValueError: if ``negatives`` name an annotated, or an unknown category.
    """
    categories = content['categories'] if isinstance(content.get('categories'), list) else []
    own = count_classes(content, path, [category.get('name') for category in categories])  # checks the records
    counts = own if counts is None else counts
    columns = zip(categories, *(values.tolist() for values in counts), group_classes(counts.images).tolist())
    ids = np.array([category['id'] for category in categories])
    present: dict[int, set[int]] = {image['id']: set() for image in content['images']}
    crowds: dict[int, set[int]] = {number: set() for number in present}
    for annotation in content['annotations']:
        present[annotation['image_id']].add(annotation['category_id'])
        if annotation.get('iscrowd'):
            crowds[annotation['image_id']].add(annotation['category_id'])
    images = []
    for image in content['images']:
        number = image['id']
        if negatives is None:
            absent = ids[~np.isin(ids, list(present[number]))].tolist()
        else:
            absent = sorted(negatives.get(number, ()))
            wrong = [c for c in absent if c in present[number]] or sorted(set(absent) - set(ids.tolist()))
            if wrong:
                raise ValueError(f'image {number} of {path}: category {wrong[0]} is annotated or unknown, not absent')
        lists = dict(neg_category_ids=absent, not_exhaustive_category_ids=sorted(crowds[number]))
        images.append(dict(image, **lists, coco_url=f'{URL}{image["file_name"]}'))
    return dict(
        {key: value for key, value in content.items() if key in ('info', 'licenses')},
        images=images,
        annotations=[annotation for annotation in content['annotations'] if not annotation.get('iscrowd')],
        categories=[dict(c, image_count=i, instance_count=n, frequency=f) for c, i, n, f in columns],
    )

"""Annotations in COCO's form as LVIS has them."""

from collections.abc import Collection, Mapping
from typing import Any

from apa_mmdet.utils.errors import CodedError
from apa_mmdet.utils.findings import Findings, brief

from .annotations.class_measurement import ClassCounts, count_categories
from .annotations.reading import read_json
from .annotations.records import ID, NAME, is_id, valid_records
from .frequency_groups import group_classes

URL = 'http://images.cocodataset.org/'  # which LVISV1Dataset takes off to get a file name
MAX_NEGATIVES = 10**8  # of all images; take 0.8 GB here, as much in the file, and more where it is read


class BadNegatives(CodedError):
    """Raised for classes that cannot be absent in an image. The message names the file.

    Codes: ``invalid-negatives``, not lists of ids; ``wrong-negative``, a category that is annotated or unknown; and
    ``too-many-negatives``, if nothing says which they are and all the others are more than can be written.
    """


def read_negatives(path: str) -> dict[int, list]:
    """Reads the categories that are absent in an image: a JSON object of ``"id of the image": [ids of categories]``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValidationError: if it is not JSON.
        BadNegatives: if it is not an object, or a key or a value of it is something else.
    """
    negatives = read_json(path)
    if not isinstance(negatives, dict):
        raise BadNegatives(
            'invalid-negatives',
            f'{path} holds a {type(negatives).__name__}; it must be an object of "id of an image": [ids of categories]',
        )
    for key, absent in negatives.items():
        # int() takes no more than some thousand digits
        if len(key) > 20 or not key.removeprefix('-').isdecimal() or str(int(key)) != key:
            raise BadNegatives(
                'invalid-negatives', f'{path}: the key {brief(key)} is not the id of an image; correct it'
            )
        if not isinstance(absent, list) or not all(map(is_id, absent)):
            raise BadNegatives(
                'invalid-negatives', f'{path}: image {key} has {brief(absent)}; it must be a list of ids of categories'
            )
    return {int(key): absent for key, absent in negatives.items()}


def as_lvis(
    content: dict, path: str, negatives: Mapping[int, Collection] | None = None, counts: ClassCounts | None = None
) -> dict[str, Any]:
    """Annotations in LVIS's form.

    Categories get ``image_count``, ``instance_count`` and ``frequency``; images ``neg_category_ids``,
    ``not_exhaustive_category_ids`` and a ``coco_url``, from which LVISV1Dataset takes ``file_name``. LVIS has no
    crowds: they are skipped, and their category is not exhaustive in their image, so that further detections of it
    count neither as right nor as wrong.

    Args:
        content: of an annotation file in COCO's form.
        path: of the file, for errors.
        negatives: for ids of images, the ids of categories verified to be absent; an image that is not named has none.
            None: all categories that are not annotated in an image, as in COCO, where all objects are annotated.
        counts: of the categories, in their order, as those of the training; default: of ``content``.

    Raises:
        ValidationError: if records are damaged.
        BadNegatives: if ``negatives`` name an annotated, or an unknown category, or are None and would be too many.
    """
    own = count_categories(content, path)  # checks the records
    images = valid_records(content, 'images', Findings(path, strict=True), dict(id=ID, file_name=NAME))
    categories, counts = content['categories'], own if counts is None else counts
    columns = zip(categories, *(values.tolist() for values in counts), group_classes(counts.images).tolist())
    present, crowds = _categories_shown(content)
    absent = _absent(present, [category['id'] for category in categories], path, negatives)
    return dict(
        {key: value for key, value in content.items() if key in ('info', 'licenses')},
        images=[
            dict(
                image,
                neg_category_ids=absent[image['id']],
                not_exhaustive_category_ids=sorted(crowds[image['id']]),
                coco_url=f'{URL}{image["file_name"]}',
            )
            for image in images
        ],
        annotations=[annotation for annotation in content['annotations'] if not annotation.get('iscrowd')],
        categories=[dict(c, image_count=i, instance_count=n, frequency=f) for c, i, n, f in columns],
    )


def _categories_shown(content: dict) -> tuple[dict[Any, set], dict[Any, set]]:
    """The categories annotated in each image, and those of its crowds."""
    present: dict[Any, set] = {image['id']: set() for image in content['images']}
    crowds: dict[Any, set] = {image['id']: set() for image in content['images']}
    for annotation in content['annotations']:
        present[annotation['image_id']].add(annotation['category_id'])
        if annotation.get('iscrowd'):
            crowds[annotation['image_id']].add(annotation['category_id'])
    return present, crowds


def _absent(
    present: dict[Any, set], categories: list, path: str, negatives: Mapping[int, Collection] | None
) -> dict[Any, list]:
    """The categories that are absent in each image."""
    if negatives is None:
        number = sum(len(categories) - len(shown) for shown in present.values())
        if number > MAX_NEGATIVES:
            raise BadNegatives(
                'too-many-negatives',
                f'{path} has {len(present):,} images and {len(categories):,} categories, so {number:,} negatives, more '
                f'than {MAX_NEGATIVES:,}; name those of each image with --negatives, or evaluate with FastCocoMetric',
            )
        return {image: [c for c in categories if c not in shown] for image, shown in present.items()}
    known = set(categories)
    for image, shown in present.items():
        for category in negatives.get(image, ()):
            if category in shown or category not in known:
                fault = 'annotated' if category in shown else 'unknown'
                raise BadNegatives(
                    'wrong-negative', f'image {image} of {path}: category {brief(category)} is {fault}, not absent'
                )
    return {image: sorted(negatives.get(image, ())) for image in present}

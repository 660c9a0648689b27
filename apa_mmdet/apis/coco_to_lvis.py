"""Writes annotations in COCO's form in LVIS's form."""

import json

from apa_mmdet.datasets.annotations.class_measurement import count_classes
from apa_mmdet.datasets.annotations.reading import read_annotations
from apa_mmdet.datasets.annotations.records import valid_records
from apa_mmdet.datasets.lvis_form import as_lvis, read_negatives
from apa_mmdet.utils.fileio import atomic_write, refuse_existing
from apa_mmdet.utils.findings import Findings


def coco_to_lvis(
    source: str, out: str, train: str | None = None, negatives: str | None = None, force: bool = False
) -> str:
    """Writes annotations in LVIS's form, which ``LVISV1Dataset`` and ``FastLVISMetric`` read.

    Args:
        source: path of the annotations in COCO's form.
        out: path of the JSON file, which is written atomically.
        train: path of the annotations whose classes, by name, give the frequencies; default: ``source``.
        negatives: path of a JSON file of the ids of the categories that are absent in an image, by its id; default:
            whatever is not annotated in an image is absent.
        force: overwrite ``out``.

    Returns:
        A line that sums it up.

    Raises:
        FileNotFoundError: if there is no such file.
        FileExistsError: if ``out`` exists and ``force`` is not given, or is one of the files that are read.
        OSError: if the file cannot be written.
        ValidationError: if annotations are damaged, or ``train`` lacks a class.
        BadNegatives: as of :func:`~apa_mmdet.datasets.lvis_form.read_negatives` and of
            :func:`~apa_mmdet.datasets.lvis_form.as_lvis`.
    """
    refuse_existing(out, force, filter(None, (source, train, negatives)))
    content, counts, absent = read_annotations(source, whole=True), None, None
    if negatives is not None:
        absent = read_negatives(negatives)
    if train is not None:
        names = [c['name'] for c in valid_records(content, 'categories', Findings(source, strict=True))]
        counts = count_classes(read_annotations(train), train, names, 'train', source)
    lvis = as_lvis(content, source, absent, counts)
    atomic_write(out, json.dumps(lvis).encode())
    unused = len(set(absent or ()) - {image['id'] for image in lvis['images']})
    groups = [category['frequency'] for category in lvis['categories']]
    return (
        f'{out}: {len(lvis["images"])} images, {len(lvis["annotations"])} annotations; '
        f'{groups.count("r")} rare, {groups.count("c")} common and {groups.count("f")} frequent classes'
        + (f'; {unused} images of {negatives} are not in {source}' if unused else '')
    )

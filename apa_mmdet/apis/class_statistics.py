"""Writes the statistics of the classes of an annotation file."""

import json
from pathlib import Path

import numpy as np

from apa_mmdet.datasets.annotations.class_measurement import measure_classes
from apa_mmdet.datasets.annotations.reading import read_annotations
from apa_mmdet.utils.fileio import atomic_write, refuse_existing


def write_class_statistics(source: str, out: str, force: bool = False) -> str:
    """Measures an annotation file and writes what DropLoss, FRACAL and IIF read, a line for each class.

    Args:
        source: path of the annotations.
        out: path of the JSON file, which is written atomically.
        force: overwrite ``out``.

    Returns:
        A line that sums it up.

    Raises:
        FileNotFoundError: if there are no annotations.
        FileExistsError: if ``out`` exists and ``force`` is not given, or is ``source``.
        OSError: if the file cannot be written.
        ValidationError: if the annotations are damaged.
    """
    refuse_existing(out, force, [source])
    measured = measure_classes(read_annotations(source), source)
    head = dict(source=Path(source).name, **{key: measured[key] for key in ('n_images', 'n_images_annotated')})
    rows = ',\n'.join(json.dumps(category, ensure_ascii=False) for category in measured['categories'])
    text = f'{json.dumps(head, ensure_ascii=False)[:-1]}, "categories": [\n{rows}\n]}}\n'
    atomic_write(out, text.encode(errors='backslashreplace'))  # surrogates, as JSON escapes them
    dimension = np.array([category['fractal_dimension'] for category in measured['categories']])
    instances = sum(category['instance_count'] for category in measured['categories'])
    return (
        f'{out}: {instances} instances of {len(dimension)} classes in {measured["n_images_annotated"]} of '
        f'{measured["n_images"]} images; fractal dimension {dimension.mean():.2f} in the mean, '
        f'{(dimension > 1).sum()} classes above 1'
    )

"""Hints for files that are missing: which command or page provides them."""

import os
import re

_FOLDERS = '/(annotations|images|train2017|val2017)/'
_MAKE = 'make the data set with: python tools/make_tiny_lvis.py'
_LVIS = 'download LVIS {0} (annotations) and COCO 2017 (train2017 and val2017) and put them under data/lvis_{0}/'
_PAGE = '{annotations,train2017,val2017}, see docs/dataset_prepare.md'
_LABELED = 'see docs/pretraining.md'
# what a missing path looks like, from the beginning of a folder's or file's name on → what to do about it
HINTS: dict[str, str] = {
    rf'tiny_lvis{_FOLDERS}': _MAKE,
    rf'tiny_(lvis_v1|lvis_v0\.5|coco|v3det){_FOLDERS}': rf'{_MAKE} --form \1',
    rf'small_lvis{_FOLDERS}': f'{_MAKE} --form small_lvis',
    r'tiny_objects/(train|val|meta)(/|$)': f'{_MAKE} --form imagenet',
    r'small_objects/(train|val|meta)(/|$)': f'{_MAKE} --form small_objects',
    rf'lvis_v1{_FOLDERS}': (
        f'{_LVIS.format("v1")}{_PAGE}; to try things out without them, python tools/make_tiny_lvis.py makes a small '
        'data set for configs/tiny_lvis'
    ),
    rf'lvis_v0\.5{_FOLDERS}': f'{_LVIS.format("v0.5")}{_PAGE}',
    rf'coco{_FOLDERS}': f'download COCO 2017 and put it under data/coco/{_PAGE}',
    r'category_name_13204_v3det_2023_v1\.txt$': (
        "this list of V3Det's class names comes with its annotations and belongs into data/V3Det/annotations, see "
        'docs/dataset_prepare.md'
    ),
    rf'V3Det{_FOLDERS}': 'download V3Det and put it under data/V3Det/{annotations,images}, see docs/dataset_prepare.md',
    r'ImageNet_LT_\w+\.txt$': f'put the lists of ImageNet-LT into data/imagenet/meta/, {_LABELED}',
    r'imagenet/(train|val|meta)(/|$)': f'put ImageNet-1K under data/imagenet/{{train,val}}/CLASS/, {_LABELED}',
    r'inat18/': f'put iNaturalist 2018 and its two lists under data/inat18/, {_LABELED}',
    r'places365/': f'put Places365 and the lists of Places-LT under data/places365/, {_LABELED}',
    r'cifar-100-python/': f'put CIFAR-100, unpacked, under data/cifar100/, {_LABELED}',
    r'trainval\.json$': (
        'say where your data lie with --cfg-options data_root=path/to/data, and in the config what its files are called'
    ),
}


def explain(error: FileNotFoundError) -> str:
    """One line for a missing file: what is missing and, where it is known, what to do about it.

    Example:
        >>> explain(FileNotFoundError(2, 'No such file or directory', 'data/tiny_lvis/annotations/a.json'))
        'missing: data/tiny_lvis/annotations/a.json; make the data set with: python tools/make_tiny_lvis.py'
    """
    if error.filename is None:  # raised with a sentence of its own, or passed on by a worker process
        message = (str(error).strip() or 'a file is missing').splitlines()[-1].removeprefix('FileNotFoundError: ')
    else:
        message = f'missing: {os.fspath(error.filename)}'
    hint = hint_for(message)
    return f'{message}; {hint}' if hint else message


def hint_for(text: str) -> str | None:
    """What to do about a missing path that ``text`` is or contains; None if that is not known."""
    found = ((re.search(rf'(?<![\w.-]){pattern}', text), hint) for pattern, hint in HINTS.items())
    return next((match.expand(hint) for match, hint in found if match), None)

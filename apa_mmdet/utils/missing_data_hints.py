"""Hints for files that are missing: which command or page provides them."""

import os
import re

_LVIS = (
    'download LVIS {0} (annotations) and COCO 2017 (train2017 and val2017) and put them under '
    'data/lvis_{0}/{{annotations,train2017,val2017}}, '
)
_MAKE = 'make the data set with: python tools/make_tiny_lvis.py'
_PAGE = 'see docs/dataset_prepare.md'
# what a missing path looks like, from the beginning of a folder's or file's name on → what to do about it
HINTS: dict[str, str] = {
    r'tiny_lvis/(annotations|train2017|val2017)/': _MAKE,
    **{
        rf'tiny_{re.escape(form)}/(annotations|images|train2017|val2017)/': f'{_MAKE} --form {form}'
        for form in ('lvis_v1', 'lvis_v0.5', 'coco', 'v3det')
    },
    r'lvis_v1/(annotations|train2017|val2017)/': (
        f'{_LVIS.format("v1")}{_PAGE}; to try things out without them, python tools/make_tiny_lvis.py makes a small '
        'data set for configs/tiny_lvis'
    ),
    r'lvis_v0\.5/(annotations|train2017|val2017)/': f'{_LVIS.format("v0.5")}{_PAGE}',
    r'coco/(annotations|train2017|val2017)/': (
        f'download COCO 2017 and put it under data/coco/{{annotations,train2017,val2017}}, {_PAGE}'
    ),
    r'category_name_13204_v3det_2023_v1\.txt$': (
        f"this list of V3Det's class names comes with its annotations and belongs into data/V3Det/annotations, {_PAGE}"
    ),
    r'V3Det/(annotations|images)/': f'download V3Det and put it under data/V3Det/{{annotations,images}}, {_PAGE}',
    r'trainval\.json$': (
        'say where your data lie with DATA_ROOT=path/to/data, and in the config what its files are called'
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
    return next((hint for pattern, hint in HINTS.items() if re.search(rf'(?<![\w.-]){pattern}', text)), None)

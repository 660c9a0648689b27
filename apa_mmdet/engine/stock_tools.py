"""Starts MMDetection's own command-line tools, which its package carries."""

import argparse
import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import mmdet

from .distributed import CPURunner, LauncherError, join_on_cpu
from .weights_file import BadCheckpoint

_LVIS = (
    'download LVIS {0} (annotations) and COCO 2017 (train2017 and val2017) and put them under '
    'data/lvis_{0}/{{annotations,train2017,val2017}}, '
)
_MAKE = 'make the data set with: python tools/make_tiny_lvis.py'
_PAGE = 'see docs/datasets.md'
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


def stock_tool(name: str) -> Path:
    """Path of MMDetection's tool ``name``, e.g. ``train.py``.

    Raises:
        FileNotFoundError: if the installed mmdet does not carry it.
    """
    package = Path(mmdet.__file__).parent
    for folder in (package / '.mim' / 'tools', package.parent / 'tools'):  # installed; a source tree
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f'mmdet {mmdet.__version__} in {package} does not carry tools/{name}')


def run(name: str) -> None:
    """Run MMDetection's Python tool ``name`` with this process's arguments, as one of several without a GPU too.

    A missing file, a checkpoint that is none or would run code, losses that stay without a number, or a launcher that
    cannot be end it with one line that says what is wrong and what to do, instead of a traceback.
    """
    # the tool finds its config relative to the working directory, and imports apa_mmdet through the config
    spec = importlib.util.spec_from_file_location(f'mmdet_{Path(name).stem}', stock_tool(name))
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    try:
        if join_on_cpu(_launcher(sys.argv[1:])):
            tool.Runner = CPURunner  # which the tool takes where the config names no runner_type
        tool.main()
    except FileNotFoundError as error:
        sys.exit(explain(error))
    except (BadCheckpoint, FloatingPointError, LauncherError) as error:
        sys.exit(str(error))


def _launcher(arguments: Sequence[str]) -> str:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument('--launcher', default='none')
    return parser.parse_known_args(arguments)[0].launcher


def explain(error: FileNotFoundError) -> str:
    """One line for a missing file: what is missing and, where it is known, what to do about it.

    Example:
        >>> explain(FileNotFoundError(2, 'No such file or directory', 'data/tiny_lvis/annotations/a.json'))
        'missing: data/tiny_lvis/annotations/a.json; make the data set with: python tools/make_tiny_lvis.py'
    """
    if error.filename is None:  # raised with a sentence of its own, or handed on by a worker process
        message = (str(error).strip() or 'a file is missing').splitlines()[-1].removeprefix('FileNotFoundError: ')
    else:
        message = f'missing: {os.fspath(error.filename)}'
    hint = next((hint for pattern, hint in HINTS.items() if re.search(rf'(?<![\w.-]){pattern}', message)), None)
    return f'{message}; {hint}' if hint else message

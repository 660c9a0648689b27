"""Starts MMDetection's own command-line tools, which its package carries."""

import importlib.util
import sys
from copy import deepcopy
from pathlib import Path

import mmdet

from apa_mmdet.checkpoint.io import BadCheckpoint
from apa_mmdet.engine.runner.cpu_runner import CPURunner, LauncherError, join_on_cpu
from apa_mmdet.utils.config import load_config
from apa_mmdet.utils.missing_data_hints import explain

from .validate_annotations import SPLITS, BadAnnotations, validate_annotations

EXIT_DIVERGED = 3  # exit status of a training whose losses or gradients stay non-finite


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

    Its annotations are looked through first. Bad ones, a missing file, a checkpoint that is none or would run code,
    losses that stay without a number, or a launcher that cannot be end it with lines that say what is wrong and what to
    do, instead of a traceback.
    """
    # the tool finds its config relative to the working directory, and imports apa_mmdet through the config
    spec = importlib.util.spec_from_file_location(f'mmdet_{Path(name).stem}', stock_tool(name))
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    args = tool.parse_args()
    try:
        if join_on_cpu(args.launcher):
            tool.Runner = CPURunner  # which the tool takes where the config names no runner_type
        if Path(args.config).is_file():  # the tool says so otherwise
            validate_annotations(load_config(args.config, deepcopy(args.cfg_options)), SPLITS[name])
        tool.main()
    except FileNotFoundError as error:
        sys.exit(explain(error))
    except FloatingPointError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_DIVERGED)
    except (BadAnnotations, BadCheckpoint, LauncherError) as error:
        sys.exit(str(error))

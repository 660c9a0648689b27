"""Starts the command-line tools that MMDetection's and MMPretrain's packages carry."""

import importlib
import importlib.util
import re
import sys
from argparse import Namespace
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from apa_mmdet.engine.runner import SafeRunner, join_on_cpu
from apa_mmdet.models.test_time_augs import InstanceTTAModel
from apa_mmdet.utils import cli
from apa_mmdet.utils.config import BadConfig, apply_options, is_classifier, read_config
from apa_mmdet.utils.errors import CodedError
from apa_mmdet.utils.missing_data_hints import explain

from .launch_checks.launch import Launch
from .launch_checks.validate_launch import validate_launch
from .launch_checks.weights import latest_of, work_dir_of
from .validate_annotations import validate_annotations

EXIT_DIVERGED = 3  # exit status of a training whose losses or gradients stay non-finite


def stock_tool(name: str, package: str = 'mmdet') -> Path:
    """Returns the path of the tool ``name``, e.g. ``train.py``, of MMDetection or of ``package``.

    Raises:
        FileNotFoundError: if the installed package does not carry it.
    """
    folder = Path(importlib.util.find_spec(package).origin).parent
    for tools in (folder / '.mim' / 'tools', folder.parent / 'tools'):  # installed; a source tree
        if (tools / name).is_file():
            return tools / name
    version = importlib.import_module(package).__version__
    raise FileNotFoundError(f'{package} {version} in {folder} does not carry tools/{name}')


def run(name: str) -> None:
    """Runs the Python tool ``name`` with the arguments of this process: MMPretrain's, if its config has that scope,
    else MMDetection's.

    Checks the settings, validates the annotations, and joins other processes without a GPU. A config without a
    ``runner_type`` gets SafeRunner, and with ``--tta`` one of a detector without a ``tta_model`` gets InstanceTTAModel;
    ``data_root``, ``classes`` and ``max_epochs`` among the options change all that depends on them. With ``--resume``
    in a work dir without checkpoints, training starts from the config's ``load_from``. Missing files, invalid settings
    or annotations, non-finite losses and every error with a code (of configs, checkpoints, weights, launchers) end the
    process with a short message instead of a traceback.
    """
    cli.hide_repeated_warnings()
    try:
        path = _config_among(sys.argv[1:])
        cfg = read_config(path) if path else None  # a tool that has options of its own is chosen by it
        package = 'mmpretrain' if cfg is not None and is_classifier(cfg) else 'mmdet'
        # the tool finds its config relative to the working directory, and imports apa_mmdet through the config
        spec = importlib.util.spec_from_file_location(f'{package}_{Path(name).stem}', stock_tool(name, package))
        tool = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tool)
        try:
            args = tool.parse_args()
        except ValueError as error:  # of MMEngine's DictAction
            raise BadConfig('bad-option', f'--cfg-options takes KEY=VALUE, with a space between two: {error}') from None
        checkpoint = getattr(args, 'checkpoint', None)
        if checkpoint and checkpoint.endswith('.py') and not args.config.endswith('.py'):
            raise BadConfig('bad-option', f'{args.config} is given as config, {checkpoint} as checkpoint: swap them')
        join_on_cpu(args.launcher)
        if cfg is None and Path(args.config).is_file():  # the tool reports it otherwise
            path, cfg = args.config, read_config(args.config)
        if cfg is not None:
            given = args.cfg_options or {}
            cfg, args.cfg_options = apply_options(cfg, path, given)
            _set_defaults(args, cfg)
            launch = Launch(
                name,
                cfg,
                given,
                resume=getattr(args, 'resume', None),
                checkpoint=getattr(args, 'checkpoint', None),
                tta=getattr(args, 'tta', False),
                draws=bool(getattr(args, 'show', False) or getattr(args, 'show_dir', None)),
                work_dir=args.work_dir,
                launcher=args.launcher,
            )
            validate_launch(launch)
            validate_annotations(launch)
            _start_from_weights(args, launch)
            tool.parse_args = lambda: args  # of this copy of the tool
        tool.main()
        if torch.distributed.is_initialized():  # at the exit its threads might end the process by a signal
            torch.distributed.destroy_process_group()
    except FileNotFoundError as error:
        sys.exit(explain(error))
    except FloatingPointError as error:
        MMLogger.get_current_instance().error(str(error))
        sys.exit(EXIT_DIVERGED)
    except CodedError as error:
        sys.exit(str(error))


def _config_among(arguments: list[str]) -> str | None:
    """The config among the arguments of a tool: the first that names a file and may be one; others are checkpoints."""
    suffixes = '.py', '.json', '.yaml', '.yml'
    return next((text for text in arguments if text.endswith(suffixes) and Path(text).is_file()), None)


def _set_defaults(args: Namespace, cfg: Config) -> None:
    """Sets what the config leaves to this package, and for the tool, which reads the config itself, as an option."""
    defaults = {}
    if 'runner_type' not in cfg:
        defaults['runner_type'] = SafeRunner.__name__
    if getattr(args, 'tta', False) and 'tta_model' not in cfg and not is_classifier(cfg):
        defaults['tta_model.type'] = InstanceTTAModel.__name__
    cfg.merge_from_dict(defaults)
    args.cfg_options = {**args.cfg_options, **defaults}
    if getattr(args, 'tta', False) and is_classifier(cfg):  # MMPretrain's tool wraps the model before it merges options
        inside = {key: re.sub(r'^model\.', 'model.module.', key) for key in args.cfg_options}
        args.cfg_options = {inside[key]: value for key, value in args.cfg_options.items()}


def _start_from_weights(args: Namespace, launch: Launch) -> None:
    """Lets ``load_from`` take effect where ``--resume`` finds nothing to resume: the stock tool would ignore it."""
    if launch.resume == 'auto' and launch.cfg.get('load_from') and latest_of(launch) is None:
        args.resume = None
        MMLogger.get_current_instance().info(
            f'{work_dir_of(launch)} has nothing to resume yet: training starts from load_from={launch.cfg.load_from}'
        )
